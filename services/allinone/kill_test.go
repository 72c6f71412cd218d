package allinone

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/run"
)

// childFolder makes this test binary a system in that folder, to be killed.
const childFolder = "ALLINONE_TEST_CHILD"

func TestMain(m *testing.M) {
	dir := os.Getenv(childFolder)
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := Start(context.Background(), Options{Data: dir, AnyPort: true})
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(s)
	}
	if err == nil {
		err = s.Wait()
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestKillAndStartAgain kills a whole system while callers register people, and
// starts it again in the same folder: every person that was acknowledged is
// there, and the bus has one event for each.
func TestKillAndStartAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childFolder+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Process.Kill()
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var victim System
	if err := json.Unmarshal(line, &victim); err != nil {
		t.Fatal(err)
	}

	conn, err := run.Dial(victim.GRPC, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const enough = 100
	registered := make(chan string, 10*enough)
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				reply, err := personv1.NewPersonServiceClient(conn).RegisterPerson(within(t, 5*time.Second), registration())
				if err != nil {
					return // killed
				}
				registered <- reply.Person.PersonId
			}
		})
	}
	people := map[string]bool{}
	for len(people) < enough {
		people[<-registered] = true
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	callers.Wait()
	child.Wait() // its error is that it was killed
	for len(registered) > 0 {
		people[<-registered] = true
	}

	s := start(t, Options{Data: dir})
	again, err := run.Dial(s.GRPC, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for id := range people {
		if _, err := personv1.NewPersonServiceClient(again).GetPerson(within(t, 5*time.Second), &personv1.GetPersonRequest{PersonId: id}); err != nil {
			t.Errorf("an acknowledged person is lost: %v", err)
		}
	}
	on := published(t, s, people)
	for id := range people {
		if on[id] != 1 {
			t.Errorf("the bus has a person %d times, want once", on[id])
		}
	}
	t.Logf("kill of the whole system: killed with %d people acknowledged: %d there after the restart, each once on the bus", len(people), len(people))
}

// published counts the events of each stream on the bus until all of want are there.
func published(t *testing.T, s *System, want map[string]bool) map[string]int {
	t.Helper()
	conn, err := nats.Connect(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	missing := len(want)
	ctx, done := context.WithCancel(within(t, time.Minute))
	bus.Consume(ctx, js, bus.ConsumeOptions{Name: "test", Categories: []string{"person"}}, func(_ context.Context, e bus.Event) error {
		if seen[e.StreamID]++; want[e.StreamID] && seen[e.StreamID] == 1 {
			if missing--; missing == 0 {
				done()
			}
		}
		return nil
	})
	done()
	if missing > 0 {
		t.Errorf("%d people never reached the bus", missing)
	}
	return seen
}

func registration() *personv1.RegisterPersonRequest {
	return &personv1.RegisterPersonRequest{
		Command:         &metav1.Command{CommandId: uuid.NewString(), Actor: &metav1.Actor{User: "test", Organisation: "RJ1"}},
		NhsNumberStatus: "07",
		Source:          &personv1.Source{Kind: personv1.SourceKind_SOURCE_KIND_LOCAL, System: "test", SentAt: timestamppb.New(run.Clock())},
	}
}
