package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// ErrNotLocal is an address at which others than this machine could read the figures.
var ErrNotLocal = errors.New("is no address of this machine alone")

// Listen opens HOST:PORT, whose host must be an address of the loopback interface, or localhost: the figures are read without any proof
// of who asks. Whoever else is to read them has a proxy in front that asks.
func Listen(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.Unmap().IsLoopback() {
		return nil, fmt.Errorf("%q %w: write 127.0.0.1:%s or [::1]:%s", address, ErrNotLocal, port, port)
	}
	return net.Listen("tcp", net.JoinHostPort(host, port))
}

// Serve answers GET /metrics on l until ctx ends. It closes l.
func (s *Set) Serve(ctx context.Context, l net.Listener, log *slog.Logger) error {
	const patience = 10 * time.Second
	figures := promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: patience, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if !isLocal(r.Host) {
			http.Error(w, "the figures are for this machine alone", http.StatusForbidden)
			return
		}
		figures.ServeHTTP(w, r)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: patience, WriteTimeout: 2 * patience, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })() // what is under way is a reading, and is made again
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// isLocal reports whether a request names this machine: a page in a browser here may not read the figures under a name of its own that
// leads to 127.0.0.1.
func isLocal(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
