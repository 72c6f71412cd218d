package run

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// mostFromOne is how many HTTP connections one address may hold, so that one
// slow or hostile caller cannot take them all.
const mostFromOne = 64

// web serves what operators and load balancers ask.
func (p *Program) web(ready http.Handler) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", p.telemetry.Handler())
	mux.Handle("GET /readyz", ready)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return &http.Server{
		Handler:           http.MaxBytesHandler(mux, 64<<10),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(p.slog.Handler(), slog.LevelDebug),
	}
}

// capped closes connections of an address that holds too many already.
type capped struct {
	net.Listener
	most int

	mu   sync.Mutex
	open map[string]int // connections by address
}

func (c *capped) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		if c.count(host, 1) {
			return &counted{Conn: conn, done: sync.OnceFunc(func() { c.count(host, -1) })}, nil
		}
		conn.Close()
	}
}

// count adds n to the connections of host, unless that would be too many.
func (c *capped) count(host string, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 && c.open[host] >= c.most {
		return false
	}
	if c.open[host] += n; c.open[host] == 0 {
		delete(c.open, host)
	}
	return true
}

type counted struct {
	net.Conn
	done func()
}

func (c *counted) Close() error {
	c.done()
	return c.Conn.Close()
}
