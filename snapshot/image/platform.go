package image

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

type platform struct{ os, arch, variant string }

func (p platform) String() string {
	s := p.os + "/" + p.arch
	if p.variant != "" {
		s += "/" + p.variant
	}
	return s
}

// parsePlatform reads OS/ARCH[/VARIANT] or a bare ARCH.
func parsePlatform(s string) (platform, error) {
	if s == "" {
		return platform{os: runtime.GOOS, arch: runtime.GOARCH}, nil
	}
	parts := strings.Split(strings.ToLower(s), "/")
	if len(parts) == 1 {
		parts = []string{runtime.GOOS, parts[0]}
	}
	for _, p := range parts {
		if p == "" || len(parts) > 3 {
			return platform{}, &snapshot.Error{Kind: snapshot.KindInvalid, Op: "platform", On: fmt.Sprintf("%q", s),
				Err: errors.New("not OS/ARCH[/VARIANT]"), Hint: "write it as linux/amd64 or linux/arm64"}
		}
	}
	p := platform{os: parts[0], arch: parts[1]}
	if len(parts) == 3 {
		p.variant = parts[2]
	}
	return p.normal(), nil
}

// normal gives a platform the names that Go and OCI have for it.
func (p platform) normal() platform {
	switch p.arch {
	case "x86_64", "x86-64":
		p.arch = "amd64"
	case "aarch64":
		p.arch = "arm64"
	}
	if p.arch == "arm64" && p.variant == "v8" {
		p.variant = ""
	}
	return p
}

func platformOf(p *v1.Platform) platform {
	return platform{os: p.OS, arch: p.Architecture, variant: p.Variant}.normal()
}

// accepts says whether something made for the platform other is what p asks for.
func (p platform) accepts(other platform) bool {
	return p.os == other.os && p.arch == other.arch &&
		(p.variant == "" || other.variant == "" || p.variant == other.variant)
}
