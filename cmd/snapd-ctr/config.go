package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// globalOptions are the flags of all commands.
type globalOptions struct {
	api.Config
	log    choice
	logMax size
}

func (o *globalOptions) flags() []cli.Flag {
	o.log = newChoice("warn", "error", "warn", "info", "debug")
	o.logMax.least = "64k"
	return []cli.Flag{
		&cli.StringFlag{Name: "root", EnvVars: []string{"SNAPD_CTR_ROOT"}, Value: "/var/lib/snapd-ctr", Destination: &o.Root,
			Usage: "keep snapshots and containers in `DIR`"},
		&cli.StringFlag{Name: "run", EnvVars: []string{"SNAPD_CTR_RUN"}, Value: "/run/snapd-ctr", Destination: &o.Run,
			Usage: "keep sockets and other run-time state in `DIR`"},
		&cli.StringFlag{Name: "criu", EnvVars: []string{"SNAPD_CTR_CRIU"}, Destination: &o.CRIU, DefaultText: "searched for",
			Usage: "use the criu at `PATH`"},
		&cli.StringFlag{Name: "shim", EnvVars: []string{"SNAPD_CTR_SHIM"}, Destination: &o.Shim, DefaultText: "searched for",
			Usage: "use the snapd-ctr-shim at `PATH`"},
		&cli.StringFlag{Name: "bridge", EnvVars: []string{"SNAPD_CTR_BRIDGE"}, Value: "snapd0", Destination: &o.Bridge,
			Usage: "attach containers to the bridge `NAME`"},
		&cli.StringFlag{Name: "subnet", EnvVars: []string{"SNAPD_CTR_SUBNET"}, Value: "10.88.64.0/18", Destination: &o.Subnet,
			Usage: "take addresses of containers from `CIDR`"},
		&cli.GenericFlag{Name: "log-max-size", EnvVars: []string{"SNAPD_CTR_LOG_MAX_SIZE"}, Value: &o.logMax, DefaultText: "64m",
			Usage: "begin a new log of a container made here when its log is `SIZE` long, and keep the one before"},
		&cli.GenericFlag{Name: "log-level", EnvVars: []string{"SNAPD_CTR_LOG_LEVEL"}, Value: &o.log,
			Usage: "write log messages of this `LEVEL` and above to standard error: " + o.log.list()},
	}
}

func (o *globalOptions) level() slog.Level {
	var l slog.Level
	_ = l.UnmarshalText([]byte(o.log.String())) // a choice: it is one of the names
	return l
}

// resolve returns the configuration with absolute paths, and with the programs found that were not named.
func (o *globalOptions) resolve(getenv func(string) string) (api.Config, error) {
	c := o.Config
	c.LogMaxBytes = o.logMax.bytes
	var err error
	if c.Root, err = filepath.Abs(c.Root); err != nil {
		return c, err
	}
	if c.Run, err = filepath.Abs(c.Run); err != nil {
		return c, err
	}
	if c.CRIU == "" {
		c.CRIU = findProgram(getenv, "criu")
	}
	if c.Shim == "" {
		c.Shim = findProgram(getenv, "snapd-ctr-shim")
	}
	return c, nil
}

// findProgram looks for a program beside this one, in the lib and sbin of the prefix that this one is in, in
// /usr/local/lib/snapd-ctr, and in PATH. Where there is none it returns the bare name: whoever runs
// it will say that it is missing, and commands that do not need it work.
func findProgram(getenv func(string) string, name string) string {
	var dirs []string
	if self, err := os.Executable(); err == nil {
		bin := filepath.Dir(self)
		dirs = append(dirs, bin, filepath.Join(bin, "../lib/snapd-ctr"), filepath.Join(bin, "../sbin"))
	}
	dirs = append(dirs, "/usr/local/lib/snapd-ctr")
	for _, d := range append(dirs, strings.Split(getenv("PATH"), ":")...) {
		path := filepath.Join(d, name)
		if fi, err := os.Stat(path); err == nil && filepath.IsAbs(path) && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path
		}
	}
	return name
}
