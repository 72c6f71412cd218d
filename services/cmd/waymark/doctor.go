package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"waymark/services/kit/bus"
	"waymark/services/kit/es"
)

// finding is one line of the doctor's report.
type finding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Bounds of what the doctor calls ready.
const (
	mostLag   = 1000    // events the relay may be behind
	leastFree = 1 << 30 // bytes
)

func (c *cli) doctorCommand() *cobra.Command {
	var t *target
	var data string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Say whether everything is ready: services, event store, NATS, relay, disk", Args: cobra.NoArgs,
		Long: `Ask every part how it is. Exits with 0 only when everything is ready, with 6 otherwise.

Examples:
  waymark doctor
  waymark doctor --port-offset 1000 -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), t.Timeout)
			defer cancel()
			found := slices.Concat(c.askServices(ctx, t), c.askReady(ctx, t), c.askStores(ctx, t), askDisk(data))
			err := list(c, []string{"", "WHAT", "DETAIL"}, found, func(f finding) []string {
				if f.OK {
					return []string{"ok", f.What, f.Detail}
				}
				return []string{"FAIL", f.What, f.Detail}
			})
			if err != nil {
				return err
			}
			bad := 0
			for _, f := range found {
				if !f.OK {
					bad++
				}
			}
			if bad == len(found)-1 && found[len(found)-1].OK || bad == len(found) {
				return unavailable("start it with: waymark dev", "nothing answers")
			}
			if bad > 0 {
				return unavailable("", "%d of %d are not ready", bad, len(found))
			}
			return nil
		},
	}
	t = c.bindTarget(cmd)
	cmd.Flags().StringVar(&data, "data", ".waymark", "data folder whose disk is looked at")
	return cmd
}

// askServices asks gRPC health for every name it knows.
func (c *cli) askServices(ctx context.Context, t *target) []finding {
	conn, err := t.dial()
	if err != nil {
		return []finding{{"gRPC " + t.grpcAddress(), false, err.Error()}}
	}
	defer conn.Close()
	all, err := healthv1.NewHealthClient(conn).List(ctx, &healthv1.HealthListRequest{})
	if err != nil {
		return []finding{{"gRPC " + t.grpcAddress(), false, oneLine(err)}}
	}
	found := []finding{{"gRPC " + t.grpcAddress(), true, "answers"}}
	var names []string
	for name := range all.Statuses {
		if service, _, part := strings.Cut(name, "."); name != "" && (!part || all.Statuses[service] != nil) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		status := all.Statuses[name].Status
		found = append(found, finding{"service " + name, status == healthv1.HealthCheckResponse_SERVING, status.String()})
	}
	if len(names) == 0 {
		found = append(found, finding{"services", false, "the server knows of none"})
	}
	return found
}

// askReady reads /readyz, which says why something is not ready.
func (c *cli) askReady(ctx context.Context, t *target) []finding {
	what := "HTTP " + t.httpAddress() + "/readyz"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.httpAddress()+"/readyz", nil)
	if err != nil {
		return []finding{{what, false, err.Error()}}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return []finding{{what, false, oneLine(err)}}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return []finding{{what, false, oneLine(err)}}
	}
	for line := range strings.Lines(string(body)) {
		if strings.Contains(line, " NOT_SERVING ") {
			return []finding{{what, false, strings.TrimSpace(line)}}
		}
	}
	return []finding{{what, response.StatusCode == http.StatusOK, response.Status}}
}

// askStores asks the event store and NATS, and how far the relay between them is.
func (c *cli) askStores(ctx context.Context, t *target) (found []finding) {
	store, nats, relay := "event store "+withoutUser(t.storeURL()), "NATS "+withoutUser(t.natsURL()), "relay"
	add := func(what string, err error, detail string) bool {
		if err != nil {
			detail = oneLine(err)
		}
		found = append(found, finding{what, err == nil, detail})
		return err == nil
	}
	err := c.withLog(t, func(log es.Log) error {
		log.Head(ctx) // waits for the connection, which Health does not
		read, write := log.Health(ctx)
		readable := add(store+" read", read, "answers")
		add(store+" write", write, "takes appends")
		return c.withNATS(t, func(js jetstream.JetStream) error {
			add(nats, nil, "answers")
			if !readable {
				add(relay, fmt.Errorf("unknown while the event store does not answer"), "")
				return nil
			}
			r, err := bus.Inspect(ctx, log, js, bus.Mapping{Env: t.Environment})
			if err == nil && r.Lag > mostLag {
				err = fmt.Errorf("%d events behind, more than %d: read the log of the services for errors of the relay", r.Lag, mostLag)
			}
			add(relay, err, fmt.Sprintf("%d events behind; log at %d, bus at %d", r.Lag, r.Head, r.Relayed))
			return nil
		})
	})
	if err != nil {
		add(nats, err, "")
	}
	return found
}

func askDisk(data string) []finding {
	what := "disk of " + data
	at := data
	if _, err := os.Stat(at); err != nil {
		at = "." // not here yet: the disk it would be on
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(at, &s); err != nil {
		return []finding{{what, false, err.Error()}}
	}
	free := s.Bavail * uint64(s.Bsize)
	detail := fmt.Sprintf("%.1f GiB free", float64(free)/(1<<30))
	if free < leastFree {
		return []finding{{what, false, detail + "; the event store refuses appends below its watermark"}}
	}
	return []finding{{what, true, detail}}
}

// oneLine is what a table can hold of an error.
func oneLine(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if strings.Contains(text, "connection refused") {
		return "nothing listens there: connection refused"
	}
	return text
}
