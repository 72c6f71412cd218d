//go:build soak

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	ticks          atomic.Int64 // of this process's time: they are lost while the machine runs others
}

const tick = 50 * time.Millisecond

func newFleet(t *testing.T, services, pathways int) *fleet {
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
	for range pathways {
		id := uuid.NewString()
		f.ids = append(f.ids, id)
		if _, err := writer.Do(t.Context(), id, &referralv1.StartPathwayRequest{Command: commandOf(uuid.NewString()), PathwayId: id}, func(struct{}) ([]proto.Message, error) {
			return []proto.Message{story(1)[0].event}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		for t.Context().Err() == nil {
			<-time.After(tick)
			f.ticks.Add(1)
		}
	}()
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
		begun := f.ticks.Load()
		_, err := referralv1.NewReferralServiceClient(f.conn(rng.IntN(8))).DraftReferral(call, &referralv1.DraftReferralRequest{Command: commandOf(id), PathwayId: pathway, Content: &referralv1.ReferralContent{
			Kind: referralv1.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH, Priority: referralv1.ReferralPriority_REFERRAL_PRIORITY_ROUTINE, Reason: "Shoulder stiffness.",
			Requester: &referralv1.Practitioner{User: "555254240101", Organisation: "RJ1"}}})
		cancel()
		if time.Duration(f.ticks.Load()-begun)*tick > f.deadline+3*time.Second { // the machine is busy
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
		f := newFleet(t, 1, 256)
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
		f := newFleet(t, 2, 256)
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

// TestSoakOverload sends five times as many calls as the services answer, whatever
// they say: four more for each that was taken. What is too much is refused at once,
// nothing that was acknowledged is lost, and memory stays bounded.
//
// Callers, service and node share the cores, so that goodput by the clock says how
// dear it is to send the surplus, which is none of ours. It is taken from CPU time
// instead, while the surplus goes to a bare server that refuses every header (calm)
// and to the service (storm), in turns. What the service uses more for a call that
// is taken is the price of the refusals that went with it; the node, which never
// hears of them, is left out of the difference, because its price of a call moves
// with how many it writes together. Goodput is what remains of a core, for service
// and node, when four refusals go with each call. A bare server's price gives the
// most that gRPC allows, and ours is held against it. The p99 of 64 steady callers,
// on connections of their own, is held against theirs in the calm. The control
// sends no surplus, and nothing is refused.
func TestSoakOverload(t *testing.T) {
	f := newFleet(t, 1, 2048) // with a few referrals each, as in life
	bare, err := f.l.start("refuse")
	if err != nil {
		t.Fatal(err)
	}
	dial := func(address string) (conns []*grpc.ClientConn) { // 256 calls each at most
		for range 8 {
			conn, err := f.l.dial(address)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		return conns
	}
	ours, refusing, flooded := dial(f.services[0].address), dial(bare.address), dial(f.services[0].address)
	send := func(conn *grpc.ClientConn, rng *rand.Rand) codes.Code {
		pathway, id := f.ids[rng.IntN(len(f.ids))], uuid.NewString()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := referralv1.NewReferralServiceClient(conn).DraftReferral(ctx, &referralv1.DraftReferralRequest{Command: commandOf(id), PathwayId: pathway, Content: &referralv1.ReferralContent{
			Kind: referralv1.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH, Priority: referralv1.ReferralPriority_REFERRAL_PRIORITY_ROUTINE, Reason: "Shoulder stiffness.",
			Requester: &referralv1.Practitioner{User: "555254240101", Organisation: "RJ1"}}})
		if err == nil {
			f.acked.Store(pathway+"/"+id, true)
		}
		return status.Code(err)
	}
	type round struct {
		took, refused int64
		p99           time.Duration
		ours, node    float64 // seconds of CPU of each for a call that was taken
		bare          float64 // and of the bare server for a refusal
	}
	// play has 64 callers of ours, each with one call at a time, who pause when they
	// are refused, and sends surplus calls by conns for each call that was taken.
	play := func(d time.Duration, surplus int64, conns []*grpc.ClientConn) round {
		var mu sync.Mutex // guards times
		var times []time.Duration
		var took, refused, open atomic.Int64
		call := func(conn *grpc.ClientConn, rng *rand.Rand) codes.Code {
			f.asked.Add(1)
			code := send(conn, rng)
			switch code {
			case codes.OK:
				took.Add(1)
			case codes.ResourceExhausted:
				refused.Add(1)
			case codes.DeadlineExceeded, codes.Aborted, codes.Unavailable:
			default:
				f.failed.Add(1)
			}
			return code
		}
		processes := []*process{f.services[0], f.node, bare}
		var before [3]float64
		for i, p := range processes {
			before[i] = cpuOf(t, p)
		}
		began := time.Now()
		var working sync.WaitGroup
		for i := range 64 {
			working.Go(func() {
				rng := rand.New(rand.NewPCG(12, uint64(i)))
				for time.Since(began) < d {
					begun := time.Now()
					if call(ours[i%len(ours)], rng) == codes.OK {
						mu.Lock()
						times = append(times, time.Since(begun))
						mu.Unlock()
					} else {
						<-time.After(time.Duration(10+rng.IntN(20)) * time.Millisecond)
					}
				}
			})
		}
		for sent := int64(0); time.Since(began) < d; <-time.After(time.Millisecond) {
			for ; sent < surplus*took.Load() && open.Load() < 4096; sent++ { // what waits is on its way
				open.Add(1)
				working.Go(func() {
					defer open.Add(-1)
					call(conns[sent%int64(len(conns))], rand.New(rand.NewPCG(13, uint64(sent))))
				})
			}
		}
		working.Wait()
		used := func(i int, by int64) float64 { return (cpuOf(t, processes[i]) - before[i]) / float64(max(1, by)) }
		return round{took.Load(), refused.Load(), quantile(times, 0.99), used(0, took.Load()), used(1, took.Load()), used(2, refused.Load())}
	}
	d := time.Duration(rounds(5)) * time.Second
	alone := play(d, 0, nil)
	var goodput, most, part, late []float64
	var detail strings.Builder
	for range 5 {
		calm := play(d, 4, refusing)
		storm := play(d, 4, flooded)
		call, price := calm.ours+calm.node, (storm.ours-calm.ours)*float64(storm.took)/float64(storm.refused)
		g, m := call/(call+4*price), call/(call+4*calm.bare)
		goodput, most, part = append(goodput, g), append(most, m), append(part, g/m)
		late = append(late, float64(storm.p99)/float64(calm.p99))
		fmt.Fprintf(&detail, "taken alone %d, calm %d, storm %d, refused %d; p99 %v, %v, %v; CPU of a call %.0f, of a refusal %.0f, by a bare server %.0f us, of the node for a call %.0f, %.0f us\n",
			alone.took, calm.took, storm.took, storm.refused, alone.p99, calm.p99, storm.p99, 1e6*call, 1e6*price, 1e6*calm.bare, 1e6*calm.node, 1e6*storm.node)
	}
	memory := memoryOf(f.services[0].cmd.Process.Pid, "VmHWM")
	for _, of := range [][]float64{goodput, most, part, late} {
		slices.Sort(of)
	}
	f.line(t, "overload", 5, alone.refused == 0, fmt.Sprintf("goodput=%.2f (bare gRPC %.2f) p99=%.1fx memory_max_mib=%d", goodput[2], most[2], late[2], memory>>20))
	if memory > 1<<29 {
		t.Errorf("the service took %d bytes", memory)
	}
	if goodput[2] < 0.65 || part[2] < 0.8 {
		t.Errorf("goodput fell to %.2f of capacity, %.2f of what gRPC allows", goodput[2], part[2])
	}
	if late[2] > 2 {
		t.Errorf("calls that were taken waited %.1f times as long", late[2])
	}
	if t.Failed() {
		t.Log(detail.String())
	}
}

// cpuOf is the CPU time that a process has used so far, in seconds.
func cpuOf(t *testing.T, p *process) float64 {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var user, system float64
	if err == nil {
		_, err = fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
	}
	if err != nil {
		t.Fatal(err)
	}
	return (user + system) / 100 // USER_HZ
}
