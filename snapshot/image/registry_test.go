package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// serve starts a registry behind the handler that wrap makes of it, and returns its host:port.
func serve(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // nobody's credentials
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// push copies the tag of a layout to a repository.
func push(t *testing.T, o layoutFiles, tag, host, repository string) {
	t.Helper()
	from, err := oci.New(o.asDir(t))
	if err != nil {
		t.Fatal(err)
	}
	to, err := remote.NewRepository(host + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	to.PlainHTTP = true
	if _, err := oras.Copy(t.Context(), from, tag, to, tag, oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
}

func twoPlatforms(t *testing.T) (o layoutFiles, index v1.Descriptor, ours v1.Descriptor) {
	o = layoutFiles{}
	ours = o.image(t, runtime.GOARCH, v1.ImageConfig{Cmd: []string{"ours"}}, plainLayer{rootfs(t, "1"), gz}, plainLayer{rootfs(t, "2"), gz})
	index = o.index(t, o.image(t, foreignArch, v1.ImageConfig{Cmd: []string{"theirs"}}, plainLayer{rootfs(t, "3"), gz}), ours)
	o.finish(t, tagged(index, "latest"))
	return o, index, ours
}

func TestLoadFromRegistry(t *testing.T) {
	host := serve(t, nil)
	o, index, ours := twoPlatforms(t)
	push(t, o, "latest", host, "team/web")
	for _, ref := range []string{
		host + "/team/web", host + "/team/web:latest", "docker://" + host + "/team/web",
		host + "/team/web@" + index.Digest.String(), host + "/team/web:any@" + ours.Digest.String(),
		strings.Replace(host, "127.0.0.1", "localhost", 1) + "/team/web",
	} {
		img, _ := mustLoad(t, ref, Options{})
		if len(img.Layers) != 2 || img.Config.Cmd[0] != "ours" {
			t.Errorf("%s: %v %v", ref, img.Layers, img.Config)
		}
	}
	if img, _ := mustLoad(t, host+"/team/web", Options{Platform: "linux/" + foreignArch}); img.Config.Cmd[0] != "theirs" {
		t.Errorf("the foreign image runs %v", img.Config.Cmd)
	}
	wantError(t, host+"/team/web", Options{Platform: "linux/riscv64"}, snapshot.KindIncompatible, "not for linux/riscv64; it is for")
	wantError(t, host+"/team/web:none", Options{}, snapshot.KindNotFound, "has no team/web with the reference none")
	wantError(t, host+"/team/absent", Options{}, snapshot.KindNotFound, "has no team/absent")

	// A directory of the same name in the working directory that is no image does not hide the registry's.
	t.Chdir(t.TempDir())
	if err := os.MkdirAll(filepath.Join(host, "team/web"), 0o755); err != nil {
		t.Fatal(err)
	}
	mustLoad(t, host+"/team/web", Options{})
}

// TestRegistryLies has a registry send something else than the blob that was asked for.
func TestRegistryLies(t *testing.T) {
	o, _, _ := twoPlatforms(t)
	layer := gz(t, rootfs(t, "2"))
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		kind   snapshot.Kind
		text   string
	}{
		"other bytes": {func(w http.ResponseWriter) {
			bad := append([]byte(nil), layer...)
			bad[len(bad)-1] ^= 1
			_, _ = w.Write(bad)
		}, snapshot.KindCorrupt, "layer sha256:"},
		"short": {func(w http.ResponseWriter) { _, _ = w.Write(layer[:len(layer)-5]) }, snapshot.KindCorrupt, "mismatch"},
		"short and chunked": {func(w http.ResponseWriter) {
			_, _ = w.Write(layer[:len(layer)/2])
			w.(http.Flusher).Flush()
		}, snapshot.KindCorrupt, "truncated"},
		"missing": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, snapshot.KindCorrupt, "does not have it"},
		"cut off": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(len(layer)))
			_, _ = w.Write(layer[:len(layer)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, snapshot.KindUnreachable, "broke"},
		"forbidden":  {func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, snapshot.KindFailed, "refuses access"},
		"overloaded": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }, snapshot.KindUnreachable, "503"},
	} {
		t.Run(name, func(t *testing.T) {
			d := o.put("", layer).Digest.String()
			host := serve(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodGet && path.Base(r.URL.Path) == d {
						c.answer(w)
						return
					}
					h.ServeHTTP(w, r)
				})
			})
			push(t, o, "latest", host, "web")
			wantError(t, host+"/web", Options{}, c.kind, c.text)
		})
	}
}

// TestRegistryCredentials asks a registry that wants a password, and has no image.
func TestRegistryCredentials(t *testing.T) {
	host := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	config := filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json")
	wantError(t, host+"/web", Options{}, snapshot.KindFailed, "refuses access to web")
	for content, want := range map[string]struct {
		kind snapshot.Kind
		text string
	}{
		login(host, "me:secret"): {snapshot.KindNotFound, "has no web"},
		login(host, "me:wrong"):  {snapshot.KindFailed, "refuses access to web"},
		"{":                      {snapshot.KindInvalid, "registry credentials"},
	} {
		if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		wantError(t, host+"/web", Options{}, want.kind, want.text)
	}
}

func login(host, userPassword string) string {
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(userPassword)))
}

func TestRegistryUnreachable(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	closed.Close()
	wantError(t, address+"/web", Options{}, snapshot.KindUnreachable, "registry "+address+" does not answer: dial tcp "+address+": connect: connection refused")
	wantError(t, "nowhere.invalid/web:1", Options{}, snapshot.KindUnreachable, "registry nowhere.invalid does not answer")

	// One that accepts and says nothing: the context ends it.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Load(ctx, silent.Addr().String()+"/web", newFake(), Options{}); err == nil || ctx.Err() == nil {
		t.Errorf("a silent registry gives %v", err)
	}
}

// TestInsecure reaches a plain HTTP registry by a name that does not pass for local, though it leads to this host.
func TestInsecure(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("NO_PROXY", "*")
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	o, _, _ := twoPlatforms(t)
	push(t, o, "latest", listener.Addr().String(), "web")
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	host := "0.0.0.0:" + port
	mustLoad(t, host+"/web", Options{Insecure: true})
	wantError(t, host+"/web", Options{}, snapshot.KindUnreachable, "no TLS")
}

func TestUntrustedCertificate(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	s := httptest.NewUnstartedServer(registry.New())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	ref, err := parseReference("localhost:" + port + "/web")
	if err != nil {
		t.Fatal(err)
	}
	l := &loader{}
	r, err := l.connect(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	r.repo.PlainHTTP = false
	_, err = r.repo.Resolve(t.Context(), "latest")
	if f, ok := errors.AsType[*fault](r.explain(err)); !ok || f.kind != snapshot.KindUnreachable || !strings.Contains(f.hint, "certificates") {
		t.Errorf("an untrusted certificate gives %v", err)
	}
}

func TestParseReference(t *testing.T) {
	const d = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for in, want := range map[string]string{
		"alpine":                     "docker.io/library/alpine:latest",
		"alpine:3.20":                "docker.io/library/alpine:3.20",
		"team/web":                   "docker.io/team/web:latest",
		"docker.io/alpine":           "docker.io/library/alpine:latest",
		"index.docker.io/team/web":   "docker.io/team/web:latest",
		"alpine@" + d:                "docker.io/library/alpine@" + d,
		"alpine:3@" + d:              "docker.io/library/alpine@" + d,
		"localhost/web":              "localhost/web:latest",
		"localhost:5000/a/b/c:1":     "localhost:5000/a/b/c:1",
		"quay.io/prometheus/node:v1": "quay.io/prometheus/node:v1",
		"[::1]:5000/web":             "[::1]:5000/web:latest",
	} {
		ref, err := parseReference(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if diff := cmp.Diff(want, ref.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
	}
	for _, bad := range []string{"", "UPPER", "a b", "alpine:", "alpine@sha256:12", "-x", "a//b", "a:b:c"} {
		if ref, err := parseReference(bad); err == nil {
			t.Errorf("%q was taken for %s", bad, ref)
		}
	}
	for host, local := range map[string]bool{"localhost": true, "localhost:5000": true, "127.0.0.1:80": true, "127.8.8.8": true,
		"[::1]:5000": true, "x.localhost:1": true, "example.org": false, "10.0.0.1:5000": false, "localhost.example.org": false} {
		if onThisHost(host) != local {
			t.Errorf("onThisHost(%s) = %v", host, !local)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	f.Add("alpine:3@sha256:12")
	f.Add("localhost:5000/a")
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := parseReference(s)
		if err != nil {
			return
		}
		if again, err := parseReference(ref.String()); err != nil || again != ref {
			t.Errorf("%q is %v, and that is %v, %v", s, ref, again, err)
		}
	})
}
