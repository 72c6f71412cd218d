package eventstore

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// childConfig tells a node in a process of its own what to do.
type childConfig struct {
	Dir     string
	NoSync  bool
	MinFree uint64
	// Fail names a kind of operation of which one fails once: the FailAt-th since
	// the start. Empty is none.
	Fail   string
	FailAt int32
	// Deaf is a planted bug: a fatal error does not end the process.
	Deaf bool
	// SmallTables makes Pebble write tables and manifests often.
	SmallTables bool
}

const childVariable = "EVENTSTORE_CHILD"

// TestChild is no test: it is the node of the tests that kill it. They start this
// program again with the variable set; without it there is nothing to do.
func TestChild(t *testing.T) {
	text, ok := os.LookupEnv(childVariable)
	if !ok {
		return
	}
	var c childConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Dir: c.Dir, NoSync: c.NoSync, MinFree: c.MinFree}
	if c.Deaf {
		cfg.Fatal = func(string) {}
	}
	if c.SmallTables {
		cfg.tune = func(o *pebble.Options) { o.MemTableSize = 64 << 10 }
	}
	if c.Fail != "" {
		var seen atomic.Int32
		cfg.FS = newFaultyFS(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if faultyOps[c.Fail](op) && seen.Add(1) == c.FailAt {
				return errorfs.ErrInjected
			}
			return nil
		}))
	}
	n, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent
		os.Exit(3)
	}()
	fmt.Println("child listens on", lis.Addr())
	t.Fatal(n.Serve(lis))
}

// child is a node in a process of its own.
type child struct {
	cmd        *exec.Cmd
	conn       *grpc.ClientConn
	ended      chan struct{} // closed when the process has ended
	err        error         // set before ended is closed
	complaints bytes.Buffer  // of the process; read it after ended only
	start      time.Duration // from the start of the process to its first answer
}

func startChild(cfg childConfig) (*child, error) {
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	c := &child{cmd: exec.Command(os.Args[0], "-test.run=^TestChild$"), ended: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	c.cmd.Stderr = &c.complaints
	if _, err := c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	late := time.AfterFunc(time.Minute, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "child listens on ")
	if err != nil || !ok {
		rest, _ := io.ReadAll(lines)
		return nil, fmt.Errorf("child: %w: %s%s%s", errors.Join(err, c.cmd.Wait()), line, rest, &c.complaints)
	}
	go func() {
		_, _ = io.Copy(io.Discard, lines)
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	if c.conn, err = grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials())); err == nil {
		_, err = c.read(context.Background(), "$users")
	}
	c.start = time.Since(began)
	return c, err
}

// kill ends the process as the kernel does it: without a word.
func (c *child) kill() error {
	err := c.cmd.Process.Kill()
	<-c.ended
	return errors.Join(err, c.conn.Close())
}

func (c *child) append(ctx context.Context, stream string, expected int64, ids []eventID) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	call, err := streamspb.NewStreamsClient(c.conn).Append(ctx)
	if err != nil {
		return err
	}
	o := &streamspb.AppendReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(stream)},
		ExpectedStreamRevision: &streamspb.AppendReq_Options_NoStream{NoStream: &shared.Empty{}}}
	if expected >= 0 {
		o.ExpectedStreamRevision = &streamspb.AppendReq_Options_Revision{Revision: uint64(expected)}
	}
	// A failed Send's reason is told by CloseAndRecv.
	_ = call.Send(&streamspb.AppendReq{Content: &streamspb.AppendReq_Options_{Options: o}})
	for _, id := range ids {
		_ = call.Send(&streamspb.AppendReq{Content: &streamspb.AppendReq_ProposedMessage_{ProposedMessage: &streamspb.AppendReq_ProposedMessage{
			Id: uuidMessage(id, false), Metadata: map[string]string{"type": "T", "content-type": "application/octet-stream"},
			Data: slices.Repeat([]byte("x"), 500)}}})
	}
	resp, err := call.CloseAndRecv()
	if err == nil && resp.GetSuccess() == nil {
		err = fmt.Errorf("refused: %v", resp)
	}
	return err
}

// read waits for a process that does not answer yet, but not for one that is gone.
func (c *child) read(ctx context.Context, stream string) (ids []eventID, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	call, err := streamspb.NewStreamsClient(c.conn).Read(ctx, &streamspb.ReadReq{Options: &streamspb.ReadReq_Options{
		StreamOption: &streamspb.ReadReq_Options_Stream{Stream: &streamspb.ReadReq_Options_StreamOptions{
			StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(stream)},
			RevisionOption:   &streamspb.ReadReq_Options_StreamOptions_Start{Start: &shared.Empty{}}}},
		CountOption:  &streamspb.ReadReq_Options_Count{Count: 1 << 40},
		FilterOption: &streamspb.ReadReq_Options_NoFilter{NoFilter: &shared.Empty{}},
		UuidOption:   &streamspb.ReadReq_Options_UUIDOption{Content: &streamspb.ReadReq_Options_UUIDOption_Structured{Structured: &shared.Empty{}}},
	}}, grpc.WaitForReady(true))
	for err == nil {
		var resp *streamspb.ReadResp
		if resp, err = call.Recv(); err == nil && resp.GetEvent() != nil {
			var id eventID
			id, err = parseUUID(resp.GetEvent().GetEvent().GetId())
			ids = append(ids, id)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return ids, err
}

// A process that is killed under load loses nothing that it acknowledged. The
// kernel keeps its page cache, so the control, which acknowledges before the
// sync, loses only what Pebble had not yet written.
func TestKill(t *testing.T) {
	t.Parallel()
	got, _ := kill(t, 6, false)
	control, _ := kill(t, 40, true)
	report(t, got, control, 500)
}

func kill(t *testing.T, cycles int, noSync bool) (tally, time.Duration) {
	y := tally{name: "kill", cycles: cycles}
	rng := rand.New(rand.NewPCG(4, uint64(cycles)))
	cfg := childConfig{Dir: t.TempDir(), NoSync: noSync, MinFree: 1}
	l := newLedger(16)
	c, err := startChild(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var slowest time.Duration
	for range cycles {
		stop := l.load(c, rng)
		l.until(100+rng.Int64N(1500), c.ended)
		if err := c.kill(); err != nil {
			t.Fatal(err)
		}
		stop()
		promised := l.promised()
		if c, err = startChild(cfg); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, c.start)
		if err := l.check(c, promised, &y); err != nil {
			t.Fatal(err)
		}
		if noSync && y.bad() > 0 { // the control has shown what it must
			break
		}
	}
	y.ops, y.acked = int(l.ops.Load()), int(l.acked.Load())
	y.more = fmt.Sprintf(" recovery_max_ms=%d", slowest.Milliseconds())
	if err := c.kill(); err != nil {
		t.Fatal(err)
	}
	return y, slowest
}

// An I/O error at the n-th operation of each kind, in a process of its own: the
// process goes on soundly or ends, and what it had acknowledged is there. A
// failed sync of the log always ends it.
func TestFailedDiskEndsProcess(t *testing.T) {
	t.Parallel()
	failedDisk(t, 40, 200)
}

func failedDisk(t *testing.T, indexes ...int32) {
	y := tally{name: "disk-errors-process"}
	ended := 0
	for _, kind := range slices.Sorted(maps.Keys(faultyOps)) {
		for _, at := range indexes {
			dir := t.TempDir()
			y.cycles++
			c, err := startChild(childConfig{Dir: dir, MinFree: 1, Fail: kind, FailAt: at, SmallTables: true})
			if err != nil {
				continue // it failed at the start, before anything was promised
			}
			l := newLedger(4)
			if end, err := l.untilEnd(c, at); end {
				ended++
				if err == nil {
					t.Errorf("%s %d: the process ended as if nothing had happened", kind, at)
				}
			} else if kind == "log sync" {
				t.Errorf("%s %d: the process goes on", kind, at)
			}
			promised := l.promised()
			y.ops, y.acked = y.ops+int(l.ops.Load()), y.acked+int(l.acked.Load())
			if c, err = startChild(childConfig{Dir: dir, MinFree: 1}); err != nil {
				t.Fatalf("%s %d: start on the sound disk: %v", kind, at, err)
			}
			if err := l.check(c, promised, &y); err != nil || y.bad() > 0 {
				t.Errorf("%s %d: %+v, %v", kind, at, y, err)
			}
			if err := c.kill(); err != nil {
				t.Error(err)
			}
		}
	}
	control := "caught"
	c, err := startChild(childConfig{Dir: t.TempDir(), MinFree: 1, Fail: "log sync", FailAt: indexes[0] + 10, Deaf: true})
	if err != nil {
		t.Fatal(err)
	}
	if end, _ := newLedger(4).untilEnd(c, indexes[0]+10); end {
		control = "MISSED"
		t.Error("a process that does not hear of a failed sync ended all the same")
	}
	fmt.Printf("%s cycles=%d ops=%d acked=%d lost=%d dup=%d reordered=%d torn=%d unexplained=%d ended=%d control=%s\n",
		y.name, y.cycles, y.ops, y.acked, y.lost, y.dup, y.reordered, y.torn, y.x, ended, control)
	if ended < len(indexes) {
		t.Errorf("%d of the processes ended: the faults did not bite", ended)
	}
}

// untilEnd writes until the process has ended, or surely met the at-th sync of its
// log: 4 writers of at most 4 events have no more than 16 in one. It says whether
// the process ended by itself, and how.
func (l *ledger) untilEnd(c *child, at int32) (ended bool, err error) {
	stop := l.load(c, rand.New(rand.NewPCG(7, 0)))
	l.until(max(1000, 16*int64(at+1)), c.ended)
	select {
	case <-c.ended:
		ended, err = true, c.err
		_ = c.conn.Close()
	default:
		_ = c.kill()
	}
	stop()
	return ended, err
}
