//go:build soak

package eventstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The long forms of the fault tests: make soak.

// some is how many of n rounds, or of what they must show, a run takes: a tenth
// with SOAK_ROUNDS=small.
func some(n int) int {
	if os.Getenv("SOAK_ROUNDS") == "small" {
		return max(1, n/10)
	}
	return n
}

func TestSoakCrashInMemory(t *testing.T) {
	report(t, crashInMemory(t, some(1000), false), crashInMemory(t, 50, true), some(500_000))
}

func TestSoakKill(t *testing.T) {
	got, slowest := kill(t, some(100), false)
	control, _ := kill(t, 40, true)
	report(t, got, control, some(50_000))
	if slowest > 5*time.Second {
		t.Errorf("a start took %v", slowest)
	}
}

func TestSoakDiskErrors(t *testing.T) {
	report(t, diskErrors(t, some(100), false), diskErrors(t, 40, true), some(2000))
}

func TestSoakFailedDiskEndsProcess(t *testing.T) {
	failedDisk(t, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233)
}

func TestSoakBitRot(t *testing.T) { bitRot(t, some(1000)) }

func TestSoakMetamorphic(t *testing.T) { metamorphic(t, some(30), 600) }

// inMountNamespace runs the calling test again, as root of a mount namespace of
// its own, and reports whether this is that run. Where this cannot be, the test
// is named as not run.
func inMountNamespace(t *testing.T, tools ...string) bool {
	const variable = "EVENTSTORE_NAMESPACE"
	if os.Getenv(variable) != "" {
		return true
	}
	missing := []string{}
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, tool := range append(tools, "unshare", "mount", "umount") {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		fmt.Printf("%s NOT RUN: needs %s\n", t.Name(), strings.Join(missing, ", "))
		return false
	}
	cmd := exec.Command("unshare", "-m", "--propagation", "private", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"=1")
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") && !strings.HasPrefix(line, "PASS") {
			fmt.Print(line)
		}
	}
	if err != nil {
		t.Error(err)
	}
	return false
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// A power cut on a real ext4: the process is stopped under load, its disk is
// copied as it is, and the copy is mounted. What was only in the page cache is
// gone.
func TestSoakPowerCut(t *testing.T) {
	if inMountNamespace(t, "mkfs.ext4", "cp") {
		report(t, powerCut(t, some(100), false), powerCut(t, 5, true), some(20_000))
	}
}

func powerCut(t *testing.T, cycles int, noSync bool) tally {
	y := tally{name: "power-cut", cycles: cycles}
	rng := rand.New(rand.NewPCG(5, uint64(cycles)))
	dir := t.TempDir()
	disks := []string{filepath.Join(dir, "a.img"), filepath.Join(dir, "b.img")}
	at := filepath.Join(dir, "disk")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	mount := func() { command(t, "mount", "-o", "loop,commit=300", disks[0], at) }
	cfg := childConfig{Dir: filepath.Join(at, "data"), NoSync: noSync, MinFree: 1}
	var l *ledger
	var c *child
	for cycle := range cycles {
		var err error
		if cycle%20 == 0 { // a young store fits the disk
			if c != nil {
				y.ops, y.acked = y.ops+int(l.ops.Load()), y.acked+int(l.acked.Load())
				if err := c.kill(); err != nil {
					t.Fatal(err)
				}
				command(t, "umount", at)
			}
			l = newLedger(16)
			if err := os.WriteFile(disks[0], nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(disks[0], 192<<20); err != nil {
				t.Fatal(err)
			}
			command(t, "mkfs.ext4", "-q", "-F", disks[0])
			mount()
			if c, err = startChild(cfg); err != nil {
				t.Fatal(err)
			}
		}
		stop := l.load(c, rng)
		l.until(100+rng.Int64N(900), c.ended)
		if err := c.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		promised := l.promised()
		command(t, "cp", "--sparse=always", disks[0], disks[1])
		if err := c.kill(); err != nil {
			t.Fatal(err)
		}
		stop()
		command(t, "umount", at)
		disks[0], disks[1] = disks[1], disks[0]
		mount()
		if c, err = startChild(cfg); err != nil {
			t.Fatal(err)
		}
		if err := l.check(c, promised, &y); err != nil {
			t.Fatal(err)
		}
	}
	y.ops, y.acked = y.ops+int(l.ops.Load()), y.acked+int(l.acked.Load())
	err := c.kill()
	command(t, "umount", at)
	if err != nil {
		t.Fatal(err)
	}
	return y
}

// A real disk runs full under load: appends are refused in time, all that was
// acknowledged can be read, also after a kill, and appends go on once there is
// room. The control has no guard.
func TestSoakDiskFull(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	y := tally{name: "disk-full", cycles: 1}
	if problem := diskFull(t, 24<<20, &y); problem != nil {
		t.Error(problem)
	}
	caught := "caught"
	if diskFull(t, 1, &tally{}) == nil {
		caught = "MISSED"
		t.Error("without a guard nothing was seen")
	}
	fmt.Printf("%s ops=%d acked=%d lost=%d control=%s\n", y.name, y.ops, y.acked, y.lost, caught)
}

// diskFull returns what a client would have seen go wrong.
func diskFull(t *testing.T, minFree uint64, y *tally) error {
	dir := t.TempDir()
	command(t, "mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", dir)
	defer command(t, "umount", "-l", dir)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, slices.Repeat([]byte("b"), 60<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := childConfig{Dir: filepath.Join(dir, "data"), MinFree: minFree}
	c, err := startChild(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if c != nil { // it may not have come up again
			_ = c.kill()
		}
	}()
	l := newLedger(16)
	stop := l.load(c, rand.New(rand.NewPCG(6, 0)))
	stopped(l)
	stop()
	// Pebble gives room back when it compacts; somebody else takes it.
	if err := fillUntil(ballast, max(minFree/2, 256<<10)); err != nil {
		t.Fatal(err)
	}
	refused := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := c.append(ctx, uuid.NewString(), -1, []eventID{eventID(uuid.New())}); status.Code(err) != codes.ResourceExhausted {
			return fmt.Errorf("an append on the full disk: %v", err)
		}
		return nil
	}
	if err := refused(); err != nil {
		return err
	}
	promised := l.promised()
	if err := l.check(c, promised, y); err != nil {
		return err
	}
	if err := c.kill(); err != nil {
		return err
	}
	if c, err = startChild(cfg); err != nil {
		return err
	}
	if err := fillUntil(ballast, max(minFree/2, 256<<10)); err != nil { // a start gives old logs back
		t.Fatal(err)
	}
	if err := errors.Join(refused(), l.check(c, promised, y)); err != nil {
		return err
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for err = errors.New("none yet"); err != nil && ctx.Err() == nil; {
		err = c.append(ctx, "after", -1, []eventID{eventID(uuid.New())})
	}
	y.ops, y.acked = int(l.ops.Load()), int(l.acked.Load())
	if err == nil && y.bad() > 0 {
		err = fmt.Errorf("%+v", *y)
	}
	return err
}

// fillUntil makes a file longer until the disk has no more than so many bytes
// free.
func fillUntil(file string, free uint64) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for {
		var disk syscall.Statfs_t
		if err := syscall.Fstatfs(int(f.Fd()), &disk); err != nil || disk.Bavail*uint64(disk.Bsize) <= free {
			return errors.Join(err, f.Close())
		}
		if _, err := f.Write(make([]byte, 64<<10)); err != nil {
			if errors.Is(err, syscall.ENOSPC) {
				err = nil
			}
			return errors.Join(err, f.Close())
		}
	}
}

// stopped waits until nothing was acknowledged for two seconds.
func stopped(l *ledger) {
	for {
		select {
		case <-l.grown:
		case <-time.After(2 * time.Second):
			return
		}
	}
}
