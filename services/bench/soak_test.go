//go:build soak

package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/run"
)

// The faults of whole processes: make soak. Each prints one line, with a control
// that must be caught.

// rounds is how many rounds a test makes: fewer with SOAK_ROUNDS=small.
func rounds(n int) int {
	if os.Getenv("SOAK_ROUNDS") == "small" {
		return max(1, n/5)
	}
	return n
}

// fleet is a node and equal referral services on it, each a process of its own,
// and callers who draft referrals and repeat what failed.
type fleet struct {
	l        *lab
	log      *es.Client
	node     *process
	ids      []string // of pathways
	deadline time.Duration
	fresh    bool // planted: a repeat is another command
	once     bool // planted: nothing is repeated

	mu       sync.Mutex
	services []*process         // under mu
	conns    []*grpc.ClientConn // under mu; of the services

	acked          sync.Map // pathway/command -> true
	asked, failed  atomic.Int64
	repeated, slow atomic.Int64
}

func newFleet(t *testing.T, services int) *fleet {
	t.Helper()
	l := &lab{opts: Options{Child: child}, dir: t.TempDir()}
	t.Cleanup(func() { _ = l.close() }) // some were killed
	f := &fleet{l: l, deadline: 2 * time.Second}
	var err error
	if f.node, err = l.start("node", filepath.Join(l.dir, "store")); err != nil {
		t.Fatal(err)
	}
	if f.log, err = l.log(f.node.address); err != nil {
		t.Fatal(err)
	}
	writer := es.NewStreams(f.log, es.Decider[struct{}]{Category: "pathway", Evolve: func(v struct{}, _ proto.Message) struct{} { return v }}, es.Options{Key: storyKey})
	for range 256 {
		id := uuid.NewString()
		f.ids = append(f.ids, id)
		if _, err := writer.Do(t.Context(), id, &referralv1.StartPathwayRequest{Command: commandOf(uuid.NewString()), PathwayId: id}, func(struct{}) ([]proto.Message, error) {
			return []proto.Message{story(1)[0].event}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range services {
		f.services, f.conns = append(f.services, nil), append(f.conns, nil)
		if err := f.startService(i); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *fleet) startService(i int) error {
	p, err := startProcess(child("services", storeURL(f.node.address), filepath.Join(f.l.dir, "models"), "referral"))
	if err != nil {
		return err
	}
	conn, err := run.Dial(p.address, nil, nil)
	if err != nil {
		return errors.Join(err, p.kill())
	}
	f.l.closing(p.stop)
	f.l.closing(conn.Close)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.services[i], f.conns[i] = p, conn
	return nil
}

func (f *fleet) conn(i int) *grpc.ClientConn {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conns[i%len(f.conns)]
}

// draft asks for one referral until it is there.
func (f *fleet) draft(ctx context.Context, rng *rand.Rand) {
	pathway, id := f.ids[rng.IntN(len(f.ids))], uuid.NewString()
	f.asked.Add(1)
	for attempt := 0; ; attempt++ {
		call, cancel := context.WithTimeout(ctx, f.deadline)
		begun := time.Now()
		_, err := referralv1.NewReferralServiceClient(f.conn(rng.IntN(8))).DraftReferral(call, &referralv1.DraftReferralRequest{Command: commandOf(id), PathwayId: pathway, Content: &referralv1.ReferralContent{
			Kind: referralv1.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH, Priority: referralv1.ReferralPriority_REFERRAL_PRIORITY_ROUTINE, Reason: "Shoulder stiffness.",
			Requester: &referralv1.Practitioner{User: "555254240101", Organisation: "RJ1"}}})
		cancel()
		if time.Since(begun) > f.deadline+3*time.Second { // the machine is busy
			f.slow.Add(1)
		}
		switch status.Code(err) {
		case codes.OK:
			f.acked.Store(pathway+"/"+id, true)
			return
		case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted, codes.ResourceExhausted:
			if f.once || attempt == 60 || ctx.Err() != nil {
				f.failed.Add(1)
				return
			}
		default:
			f.failed.Add(1)
			return
		}
		f.repeated.Add(1)
		if f.fresh {
			id = uuid.NewString()
		}
		select {
		case <-time.After(time.Duration(10+rng.IntN(50)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// load runs callers until stop is called.
func (f *fleet) load(callers int) (stop func()) {
	ending := make(chan struct{})
	var working sync.WaitGroup
	for i := range callers {
		working.Go(func() {
			rng := rand.New(rand.NewPCG(11, uint64(i)))
			for {
				select {
				case <-ending:
					return
				default:
					f.draft(context.Background(), rng)
				}
			}
		})
	}
	return func() { close(ending); working.Wait() }
}

// until waits for so many more acknowledgements.
func (f *fleet) until(t *testing.T, n int64) {
	t.Helper()
	count := func() (n int64) { f.acked.Range(func(any, any) bool { n++; return true }); return n }
	want := count() + n
	for began := time.Now(); count() < want; {
		if time.Since(began) > 2*time.Minute {
			t.Fatal("the services answer no more")
		}
		<-time.After(20 * time.Millisecond)
	}
}

// check reads every pathway's referrals: those acknowledged that are not there,
// and drafts beyond one for each that was asked for.
func (f *fleet) check(t *testing.T) (acked, lost, dup int) {
	t.Helper()
	drafted, seen := 0, map[string]int{}
	for _, id := range f.ids {
		if err := f.log.Read(t.Context(), "referral-"+id, 0, func(e es.Recorded) error {
			m, err := es.ParseMetadata(e)
			drafted++
			seen[id+"/"+m.CommandID.String()]++
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	f.acked.Range(func(k, _ any) bool {
		acked++
		if seen[k.(string)] == 0 {
			lost++
		}
		return true
	})
	return acked, lost, max(0, drafted-int(f.asked.Load()))
}

func (f *fleet) line(t *testing.T, name string, cycles int, caught bool, more string) {
	t.Helper()
	acked, lost, dup := f.check(t)
	control := "caught"
	if !caught {
		control = "MISSED"
		t.Error("the control's bug was not seen")
	}
	fmt.Printf("%s cycles=%d ops=%d acked=%d lost=%d dup=%d failed=%d hung=%d repeated=%d %s control=%s\n",
		name, cycles, f.asked.Load(), acked, lost, dup, f.failed.Load(), f.slow.Load(), f.repeated.Load(), more, control)
	if lost > 0 || dup > 0 || f.failed.Load() > 0 || f.slow.Load() > 0 || acked < 50*cycles {
		t.Errorf("%s: see its line", name)
	}
}

// TestSoakStopped stops the node and the service for a while, one after the
// other, as a debugger or a full host does. Calls end on time, repeats find what
// was recorded, and all goes on within seconds. The control repeats under another id.
func TestSoakStopped(t *testing.T) {
	play := func(cycles int, fresh bool) (*fleet, time.Duration) {
		f := newFleet(t, 1)
		f.fresh = fresh
		stop := f.load(16)
		var slowest time.Duration
		for cycle := range cycles {
			f.until(t, 60)
			p := f.node.cmd.Process
			if cycle%2 == 1 {
				p = f.services[0].cmd.Process
			}
			if err := p.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			<-time.After(4 * time.Second) // the fault itself: longer than every deadline
			if err := p.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			back := time.Now()
			f.until(t, 1)
			slowest = max(slowest, time.Since(back))
		}
		stop()
		return f, slowest
	}
	cycles := rounds(10)
	got, slowest := play(cycles, false)
	caught := false
	for range 5 {
		control, _ := play(2, true)
		_, _, dup := control.check(t)
		if caught = dup > 0; caught {
			break
		}
	}
	got.line(t, "stopped", cycles, caught, fmt.Sprintf("back_max_ms=%d", slowest.Milliseconds()))
	if slowest > 15*time.Second {
		t.Errorf("it took %v until calls were answered again", slowest)
	}
}

// TestSoakRollingRestart ends and starts two equal services in turns under load:
// with repeats no call fails, and each drains in time. In the control nothing is
// repeated and the services are killed.
func TestSoakRollingRestart(t *testing.T) {
	play := func(cycles int, rough bool) (*fleet, time.Duration) {
		f := newFleet(t, 2)
		f.once = rough
		stop := f.load(16)
		var slowest time.Duration
		for cycle := range cycles {
			f.until(t, 60)
			f.mu.Lock()
			p := f.services[cycle%2]
			f.mu.Unlock()
			begun := time.Now()
			end := p.stop
			if rough {
				end = p.kill
			}
			if err := end(); err != nil {
				t.Fatal(err)
			}
			slowest = max(slowest, time.Since(begun))
			if err := f.startService(cycle % 2); err != nil {
				t.Fatal(err)
			}
		}
		f.until(t, 60)
		stop()
		return f, slowest
	}
	cycles := rounds(20)
	got, slowest := play(cycles, false)
	control, _ := play(3, true)
	got.line(t, "rolling-restart", cycles, control.failed.Load() > 0, fmt.Sprintf("drain_max_ms=%d", slowest.Milliseconds()))
	if slowest > 10*time.Second {
		t.Errorf("draining took %v", slowest)
	}
}

// TestSoakOverload sends five times as many calls as a service takes in at once:
// it refuses what is too much, loses nothing, and its memory stays bounded. The
// control sends half as many, and nothing is refused.
func TestSoakOverload(t *testing.T) {
	play := func(callers int, d time.Duration) (f *fleet, refused, rate float64, memory int64) {
		f = newFleet(t, 1)
		var conns []*grpc.ClientConn // 256 calls each at most
		for range 1 + callers/200 {
			conn, err := dialBare(f.services[0].address)
			if err != nil {
				t.Fatal(err)
			}
			f.l.closing(conn.Close)
			conns = append(conns, conn)
		}
		var shed, done atomic.Int64
		var working sync.WaitGroup
		began := time.Now()
		for i := range callers {
			working.Go(func() {
				rng := rand.New(rand.NewPCG(12, uint64(i)))
				for time.Since(began) < d {
					pathway, id := f.ids[rng.IntN(len(f.ids))], uuid.NewString()
					f.asked.Add(1)
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					_, err := referralv1.NewReferralServiceClient(conns[i%len(conns)]).DraftReferral(ctx, &referralv1.DraftReferralRequest{Command: commandOf(id), PathwayId: pathway, Content: &referralv1.ReferralContent{
						Kind: referralv1.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH, Priority: referralv1.ReferralPriority_REFERRAL_PRIORITY_ROUTINE, Reason: "Shoulder stiffness.",
						Requester: &referralv1.Practitioner{User: "555254240101", Organisation: "RJ1"}}})
					cancel()
					switch status.Code(err) {
					case codes.OK:
						done.Add(1)
						f.acked.Store(pathway+"/"+id, true)
					case codes.ResourceExhausted:
						shed.Add(1)
						<-time.After(time.Duration(50+rng.IntN(100)) * time.Millisecond) // as RetryInfo asks
					case codes.DeadlineExceeded, codes.Aborted, codes.Unavailable:
					default:
						f.failed.Add(1)
						t.Errorf("%v", err)
					}
				}
			})
		}
		working.Wait()
		return f, float64(shed.Load()), float64(done.Load()) / time.Since(began).Seconds(), memoryOf(f.services[0].cmd.Process.Pid, "VmHWM")
	}
	d := time.Duration(rounds(30)) * time.Second
	_, calm, capacity, _ := play(64, d)
	got, refused, rate, memory := play(2560, d)
	got.line(t, "overload", 1, refused > 0 && calm == 0, fmt.Sprintf("refused=%.0f goodput=%.2f memory_max_mib=%d", refused, rate/capacity, memory>>20))
	if memory > 1<<30 {
		t.Errorf("the service took %d bytes", memory)
	}
	if rate < 0.3*capacity {
		t.Errorf("goodput fell from %.0f/s to %.0f/s", capacity, rate)
	}
}
