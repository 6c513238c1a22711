package image

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// parseReference reads a registry reference as Docker does: the first part is a host only when it looks like one.
func parseReference(s string) (registry.Reference, error) {
	host, rest, ok := strings.Cut(s, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest = "docker.io", s
	}
	if host == "index.docker.io" {
		host = "docker.io"
	}
	if host == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	if strings.HasSuffix(rest, ":") || strings.HasSuffix(rest, "@") {
		return registry.Reference{}, fmt.Errorf("%q ends in %q", s, rest[len(rest)-1:])
	}
	ref, err := registry.ParseReference(host + "/" + rest)
	if err == nil && ref.Reference == "" {
		ref.Reference = "latest"
	}
	return ref, err
}

// remoteBlobs is a repository of a registry.
type remoteBlobs struct {
	repo  *remote.Repository
	close func()
}

func (l *loader) loadRemote(ctx context.Context, ref registry.Reference) (*Image, error) {
	r, err := l.connect(ref)
	if err != nil {
		return nil, err
	}
	defer r.close()
	root, err := r.repo.Resolve(ctx, ref.Reference)
	if err != nil {
		return nil, r.explain(err)
	}
	return l.loadTree(ctx, r, root)
}

func (l *loader) connect(ref registry.Reference) (*remoteBlobs, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	transport.ResponseHeaderTimeout = 30 * time.Second
	again := retry.NewTransport(transport)
	again.Policy = func() retry.Policy {
		return &retry.GenericPolicy{Retryable: retry.DefaultPredicate, Backoff: retry.DefaultBackoff,
			MinWait: 200 * time.Millisecond, MaxWait: 2 * time.Second, MaxRetry: 2}
	}
	credential, err := userCredentials()
	if err != nil {
		return nil, err
	}
	return &remoteBlobs{
		repo: &remote.Repository{
			Reference: ref,
			PlainHTTP: l.insecure || onThisHost(ref.Registry),
			Client:    &auth.Client{Client: &http.Client{Transport: again}, Cache: auth.NewCache(), Credential: credential},
		},
		close: transport.CloseIdleConnections,
	}, nil
}

// userCredentials are those that docker login left; nobody's where there are none.
func userCredentials() (auth.CredentialFunc, error) {
	if os.Getenv("HOME") == "" && os.Getenv("DOCKER_CONFIG") == "" {
		return nil, nil
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, faultf(snapshot.KindInvalid, "repair or remove ~/.docker/config.json", "registry credentials: %w", err)
	}
	return credentials.Credential(store), nil
}

func onThisHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && addr.IsLoopback()
}

func (r *remoteBlobs) open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	body, err := r.repo.Fetch(ctx, d)
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return nil, damaged(errors.New("the registry does not have it"))
	case err != nil:
		return nil, r.explain(err)
	}
	return &remoteBody{body, r}, nil
}

// remoteBody gives errors of the network in the middle of a blob the kind they have at its beginning.
type remoteBody struct {
	io.ReadCloser
	from *remoteBlobs
}

func (b *remoteBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = faultf(snapshot.KindUnreachable, "try again", "the connection to %s broke: %w", b.from.repo.Reference.Registry, err)
	}
	return n, err
}

// explain turns an error of the registry client into one line that says what to do.
func (r *remoteBlobs) explain(err error) error {
	ref := r.repo.Reference
	if resp, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		return r.explainStatus(resp.StatusCode)
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return r.explainStatus(http.StatusUnauthorized)
	}
	_, isNet := errors.AsType[net.Error](err) // *url.Error is one
	_, badName := errors.AsType[x509.HostnameError](err)
	_, badAuthority := errors.AsType[x509.UnknownAuthorityError](err)
	_, badCertificate := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return r.notFound()
	case strings.Contains(err.Error(), "mismatch"): // of size, digest or type: the client has no sentinel for these
		return faultf(snapshot.KindCorrupt, "push the image again", "%s: %w", ref.Registry, err)
	case badName || badAuthority || badCertificate:
		return faultf(snapshot.KindUnreachable, "add its authority to this host's trusted certificates", "registry %s: %w", ref.Registry, cause(err))
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return faultf(snapshot.KindUnreachable, "the registry speaks plain HTTP: use --insecure", "registry %s: no TLS", ref.Registry)
	case isNet:
		return faultf(snapshot.KindUnreachable, "check the name and the network; a local image is given as its path, with ./ in front",
			"registry %s does not answer: %w", ref.Registry, cause(err))
	}
	return faultf(snapshot.KindFailed, "", "registry %s: %w", ref.Registry, err)
}

func (r *remoteBlobs) explainStatus(status int) error {
	ref := r.repo.Reference
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return faultf(snapshot.KindFailed, "the image may be private or not exist; log in with: docker login "+ref.Registry,
			"registry %s refuses access to %s: %s", ref.Registry, ref.Repository, http.StatusText(status))
	case http.StatusNotFound:
		return r.notFound()
	case http.StatusTooManyRequests:
		return faultf(snapshot.KindUnreachable, "wait, or log in with: docker login "+ref.Registry, "registry %s: too many requests", ref.Registry)
	}
	return faultf(snapshot.KindUnreachable, "try again later", "registry %s answers %d %s", ref.Registry, status, http.StatusText(status))
}

func (r *remoteBlobs) notFound() error {
	ref := r.repo.Reference
	return faultf(snapshot.KindNotFound, "check the name and the tag; a local image is given as its path, with ./ in front",
		"registry %s has no %s with the reference %s", ref.Registry, ref.Repository, ref.Reference)
}

// cause takes the method and the URL off an error of net/http: they say nothing that our own message does not.
func cause(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}
