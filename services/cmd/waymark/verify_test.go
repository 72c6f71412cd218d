package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/allinone"
	"waymark/services/eventstore"
	"waymark/services/kit/es"
)

// stop ends a server in order.
func (c *checkout) stop(server interface{ Wait() error }, process *os.Process) {
	c.t.Helper()
	if err := process.Signal(os.Interrupt); err != nil {
		c.t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		c.t.Fatal(err)
	}
}

// plant appends an event to the log of a stopped system, with a true chain: what
// a service with a bug would have left behind.
func plant(t *testing.T, data, stream string, event proto.Message) {
	t.Helper()
	node, err := eventstore.Open(eventstore.Config{Dir: allinone.StoreDir(data)})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go node.Serve(lis)
	log, err := es.Open(es.Config{URL: fmt.Sprintf("esdb://%s?tls=false", lis.Addr())})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	category, id, _ := strings.Cut(stream, "-")
	streams := es.NewStreams(log, es.Decider[int]{Category: category, Evolve: func(n int, _ proto.Message) int { return n }}, es.Options{Key: make([]byte, 32)})
	request := &careleadv1.RunTimersRequest{PathwayId: id, Command: &metav1.Command{CommandId: uuid.NewString(), Actor: &metav1.Actor{User: "test", Organisation: "RJ1"}}}
	if _, err := streams.Do(t.Context(), id, request, func(int) ([]proto.Message, error) { return []proto.Message{event}, nil }); err != nil {
		t.Fatal(err)
	}
}

// TestVerifyOfAStoppedSystem: with --data the store must be nobody else's; what a
// whole system wrote is without fault; a planted event is named, with exit code 5.
func TestVerifyOfAStoppedSystem(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	data := filepath.Join(c.dir, ".waymark")
	server, _, _ := c.dev("--demo", "--demo-patients", "0")
	if out, err, code := waymark(t, "", "verify", "--data", data); code != exitUnavailable || !strings.Contains(err, "stop the system first") || out != "" {
		t.Errorf("while it runs: exit %d, %q, %q", code, out, err)
	}
	running := c.sh("bin/waymark verify -o json -q")
	c.stop(server, server.Process)

	var online, offline allinone.Verifier
	out, err, code := waymark(t, "", "verify", "--data", data, "-o", "json")
	if e := json.Unmarshal([]byte(out), &offline); e != nil || code != exitOK || offline.Faults != 0 || offline.Pathways != 6 || offline.Instants == 0 {
		t.Fatalf("stopped: exit %d, %v, %q, %q", code, e, out, err)
	}
	if e := json.Unmarshal([]byte(running), &online); e != nil || online.Pathways != offline.Pathways || online.Commands != offline.Commands || online.Transfers != offline.Transfers {
		t.Errorf("running, it is %s\nstopped, %s", running, out)
	}
	if out, err, code = waymark(t, "", "verify", "--data", data); code != exitOK || !strings.Contains(out, "pathways                     6\n") || err != "" {
		t.Errorf("as a table: exit %d, %q\n%s", code, err, out)
	}

	const nowhere = "carelead-00000000-0000-4000-8000-00000000dead"
	plant(t, data, nowhere, &careleadv1.LedgerOpened{PathwayId: nowhere[len("carelead-"):], Holder: &careleadv1.Party{Kind: careleadv1.PartyKind_PARTY_KIND_TEAM, Id: "X", Name: "X", Organisation: "RJ1"}})
	out, err, code = waymark(t, "", "verify", "--data", data)
	if code != exitVerification || !strings.Contains(out, nowhere) || !strings.Contains(out, "never started") || !strings.Contains(err, "next: waymark events show "+nowhere) {
		t.Errorf("planted: exit %d, %q\n%s", code, err, out)
	}
	if strings.Count(out, "\nfault ") != strings.Count(out, nowhere) {
		t.Errorf("one event was planted, others are blamed:\n%s", out)
	}

	for name, folder := range map[string]string{"no folder": filepath.Join(c.dir, "none"), "an empty folder": t.TempDir()} {
		if out, err, code = waymark(t, "", "verify", "--data", folder); code != exitNotFound || !strings.Contains(err, "holds no log") {
			t.Errorf("%s: exit %d, %q, %q", name, code, out, err)
		}
	}
}
