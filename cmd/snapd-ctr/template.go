package main

import "github.com/urfave/cli/v2"

// newTemplateCommand groups the commands for templates; each has a file of its own.
func newTemplateCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:  "template",
		Usage: "build, list and remove templates, of which clones are forked",
		Description: `    snapd-ctr template build warm
    snapd-ctr template ls
    snapd-ctr template rm warm

A template is a process that holds a snapshot's memory and never runs; a clone is a fork of it. The first clone of a
snapshot builds its template, which stays for a while longer than the clones do. One that is built by this command is
pinned: it stays until it is removed, and is built again should it die. It holds the snapshot's memory as long as it stays.

Clones of one template share the layout of their address spaces and the value by which a program notices that its stack
was overwritten: let a template serve one tenant.`,
		Subcommands: []*cli.Command{newTemplateBuildCommand(a), newTemplateLsCommand(a), newTemplateRmCommand(a)},
	}
}
