package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type runOptions struct {
	name     string
	image    string
	rootfs   string
	bundle   string
	env      cli.StringSlice
	volumes  cli.StringSlice
	limits   limits
	network  choice
	hostname string
	workdir  string
	user     string
	remove   bool
	insecure bool
	attach   bool
	output
}

func newRunCommand(a *app) *cli.Command {
	o := runOptions{network: newChoice("bridge", "bridge", "host", "none")}
	flags := []cli.Flag{
		&cli.StringFlag{Name: "name", Destination: &o.name, Usage: "call the container `NAME`", DefaultText: "made from the id"},
		&cli.StringFlag{Name: "image", Destination: &o.image,
			Usage: "use the image `REF`: an OCI layout, an OCI or docker archive, a root file system tar, or a registry reference"},
		&cli.StringFlag{Name: "rootfs", Destination: &o.rootfs, Usage: "use `DIR`, read-only, beneath the container's own files"},
		&cli.StringFlag{Name: "bundle", Destination: &o.bundle, Usage: "use the OCI bundle in `DIR`"},
		&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Destination: &o.env,
			Usage: "set `NAME=VALUE` in the environment, or pass on NAME; can be repeated"},
		&cli.StringSliceFlag{Name: "volume", Aliases: []string{"v"}, Destination: &o.volumes,
			Usage: "show a path of the host in the container: `SOURCE:TARGET[:ro]`; can be repeated"},
	}
	flags = append(flags, o.limits.flags("no limit")...)
	flags = append(flags,
		&cli.GenericFlag{Name: "network", Value: &o.network, Usage: "attach to the network in `MODE`: " + o.network.list()},
		&cli.StringFlag{Name: "hostname", Destination: &o.hostname, Usage: "set the host name to `NAME`", DefaultText: "the container's name"},
		&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Destination: &o.workdir, Usage: "start in `DIR` of the container"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Destination: &o.user, Usage: "run as `USER`: UID[:GID] or NAME[:GROUP]"},
		&cli.BoolFlag{Name: "rm", Destination: &o.remove, Usage: "remove the container once it has exited"},
		&cli.BoolFlag{Name: "insecure", Destination: &o.insecure, Usage: "talk plain HTTP to the registry"},
		&cli.BoolFlag{Name: "attach", Aliases: []string{"a"}, Destination: &o.attach,
			Usage: "show what the container writes until it exits, and exit with its status"},
	)
	return &cli.Command{
		Name:      "run",
		Usage:     "start a container",
		ArgsUsage: "[--] [COMMAND] [ARG...]",
		Flags:     append(flags, o.output.flags()...),
		Description: `    snapd-ctr run --name web --rootfs /srv/rootfs -m 512m -- python3 -m http.server
    snapd-ctr run --image registry.example/redis:7 --cpus 1.5 -v ./data:/data
    snapd-ctr run --rootfs /srv/rootfs --attach --rm -- sh -c 'echo hello'

Starts an OCI container and prints its id; what the container writes goes to its log. Everything after the first
argument that is not a flag belongs to the container's program. The command may be left out where the image names one;
a bundle always does. Where the program cannot be started the exit code is 126, and 127 where there is no such program.` + exitStatus(10, 11, 13, 17, codeRunFailed, 126, 127),
		Action: a.do(func(ctx context.Context, args []string) error {
			r, err := o.request(args)
			if err != nil {
				return err
			}
			return a.with(ctx, func(svc api.Service) error { return runRun(ctx, a, svc, &o, r) })
		}),
	}
}

func runRun(ctx context.Context, a *app, svc api.Service, o *runOptions, r api.RunRequest) error {
	// An attached container's status has to be read before it is removed.
	r.Remove = o.remove && !o.attach
	c, err := svc.Run(ctx, r)
	switch {
	case err != nil && o.attach:
		return ownError{err}
	case err != nil:
		return err
	case o.attach:
		return runAttached(ctx, a, svc, c.ID, o.remove)
	case o.asJSON():
		return writeJSON(a.stdout, viewOf(c))
	}
	_, err = fmt.Fprintln(a.stdout, c.ID)
	return err
}

// runAttached shows what the container writes until it exits. An interrupt leaves the container as it is.
func runAttached(ctx context.Context, a *app, svc api.Service, id string, remove bool) error {
	status, err := follow(ctx, a, svc, id)
	if ctx.Err() != nil {
		a.words("snapd-ctr: %s goes on running", shortID(id))
		a.words("hint: snapd-ctr stop %s ends it", shortID(id))
		return ownError{err}
	}
	if remove {
		if rerr := svc.Remove(ctx, id, err != nil); err == nil {
			err = rerr
		}
	}
	if err != nil {
		return ownError{err}
	}
	if status != 0 {
		return statusError(status)
	}
	return nil
}

func follow(ctx context.Context, a *app, svc api.Service, id string) (status int, err error) {
	r := api.LogsRequest{Follow: true, Tail: -1, Stdout: a.stdout, Stderr: a.stderr}
	if err := svc.Logs(ctx, id, r); err != nil {
		return 0, err
	}
	return svc.Wait(ctx, id)
}

func (o *runOptions) request(args []string) (api.RunRequest, error) {
	r := api.RunRequest{
		Name: o.name, Image: o.image, Rootfs: o.rootfs, Bundle: o.bundle, Args: args, Workdir: o.workdir, User: o.user,
		Hostname: o.hostname, Network: o.network.value, Insecure: o.insecure,
	}
	given := 0
	for _, s := range []string{r.Image, r.Rootfs, r.Bundle} {
		if s != "" {
			given++
		}
	}
	if given != 1 {
		return r, usagef("exactly one of --image, --rootfs and --bundle says what to run").
			hinted("snapd-ctr run --rootfs DIR -- COMMAND")
	}
	if r.Rootfs != "" && len(args) == 0 {
		return r, usagef("COMMAND is missing").hinted("a directory does not say what to run: snapd-ctr run --rootfs %s -- COMMAND", r.Rootfs)
	}
	if r.Bundle != "" && (len(args) > 0 || len(o.env.Value()) > 0 || len(o.volumes.Value()) > 0 || r.Workdir != "" || r.User != "") {
		return r, usagef("--bundle comes with a program, environment, volumes and user of its own").
			hinted("leave out COMMAND, -e, -v, -w and -u, or change the bundle's config.json")
	}
	var err error
	if r.Env, err = environment(o.env.Value()); err != nil {
		return r, err
	}
	if r.Volumes, err = volumes(o.volumes.Value()); err != nil {
		return r, err
	}
	r.Limits = o.limits.value()
	for _, dir := range []*string{&r.Rootfs, &r.Bundle} {
		if *dir == "" {
			continue
		}
		if *dir, err = filepath.Abs(*dir); err != nil {
			return r, err
		}
	}
	return r, nil
}
