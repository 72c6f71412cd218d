package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"waymark/services/eventstore"
	"waymark/services/kit/es"
	"waymark/services/kit/run"
	"waymark/services/pathway"
	"waymark/services/referral"
)

// ProfileVariable names the folder in which each process leaves a CPU profile.
const ProfileVariable = "BENCH_PROFILE"

// Child is the other side of a measurement, in a process of its own: it prints
// the address it listens on and serves until in ends, which it does with its
// parent. Roles:
//
//	echo              the bare gRPC server of the limits
//	refuse            a bare gRPC server that refuses every call by its header
//	forward ADDRESS   a service that only passes an echo on
//	node DIR          the event store node
//	services URL DIR NAME...  the named services, on the node at URL
func Child(ctx context.Context, in io.Reader, out io.Writer, args ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	role := strings.Join(args[:min(1, len(args))], "")
	end, err := profile(role)
	if err != nil {
		return err
	}
	defer end()
	switch {
	case role == "services" && len(args) > 3:
		return serveServices(ctx, out, args[1], args[2], args[3:])
	case role == "node" && len(args) == 2:
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		node, err := eventstore.Open(eventstore.Config{Dir: args[1]})
		if err != nil {
			return errors.Join(err, lis.Close())
		}
		closed := make(chan error, 1)
		context.AfterFunc(ctx, func() { closed <- node.Close() })
		fmt.Fprintln(out, lis.Addr())
		if err := node.Serve(lis); err != nil {
			return err
		}
		return <-closed
	case role == "refuse" && len(args) == 1:
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		refusal := status.Error(codes.ResourceExhausted, "no")
		server := grpc.NewServer(grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) { return ctx, refusal }))
		context.AfterFunc(ctx, server.Stop)
		fmt.Fprintln(out, lis.Addr())
		return server.Serve(lis)
	case role == "echo" && len(args) == 1, role == "forward" && len(args) == 2:
		var next *grpc.ClientConn
		if role == "forward" {
			var err error
			if next, err = dialBare(args[1]); err != nil {
				return err
			}
			defer next.Close()
		}
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		server := newBareServer(next)
		context.AfterFunc(ctx, server.Stop)
		fmt.Fprintln(out, lis.Addr())
		if err := server.Serve(lis); err != nil && ctx.Err() == nil {
			return err
		}
		return nil
	}
	return fmt.Errorf("bench: no child %q", args)
}

// profile begins a CPU profile where the environment asks for one.
func profile(role string) (end func(), err error) {
	dir := os.Getenv(ProfileVariable)
	if dir == "" {
		return func() {}, nil
	}
	f, err := os.CreateTemp(dir, role+"-*.prof")
	if err != nil {
		return nil, err
	}
	return func() { pprof.StopCPUProfile(); f.Close() }, pprof.StartCPUProfile(f)
}

func dialBare(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// serveServices runs what `waymark run NAME...` does, without a bus.
func serveServices(ctx context.Context, out io.Writer, url, dir string, names []string) error {
	logger, err := run.NewLogger(io.Discard, "text", "error")
	if err != nil {
		return err
	}
	program, err := run.Listen(ctx, run.Config{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Drain: time.Nanosecond}, "bench", logger)
	if err != nil {
		return err
	}
	log, err := es.Open(es.Config{URL: url})
	if err != nil {
		return errors.Join(err, program.Close())
	}
	defer log.Close()
	deps := program.Deps(log, nil, storyKey)
	deps.Dir = dir
	var parts []run.Part
	made := map[string]func(run.Deps) (run.Part, error){"referral": referral.New, "pathway": pathway.New}
	for _, name := range names {
		if made[name] == nil {
			return errors.Join(fmt.Errorf("bench: no service %q", name), program.Close())
		}
		part, err := made[name](deps)
		if err != nil {
			return errors.Join(err, program.Close())
		}
		part.React = nil // nobody speaks on a bus that is not there
		parts = append(parts, part)
	}
	go func() {
		select {
		case <-program.Ready():
			fmt.Fprintln(out, program.GRPC())
		case <-ctx.Done():
		}
	}()
	return program.Serve(ctx, deps, parts...)
}

// process is a started child.
type process struct {
	address string
	cmd     *exec.Cmd
	in      io.Closer
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	late.Stop()
	if err != nil {
		in.Close()
		_ = cmd.Wait() // its complaints say more
		return nil, fmt.Errorf("the child %v did not start: %s", cmd.Args[1:], strings.TrimSpace(complaints.String()))
	}
	return &process{address: strings.TrimSpace(line), cmd: cmd, in: in}, nil
}

// stop ends the child in order.
func (p *process) stop() error {
	p.in.Close()
	late := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	return p.cmd.Wait()
}

// kill ends it as kill -9 does.
func (p *process) kill() error {
	p.in.Close()
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	_ = p.cmd.Wait() // reports the signal
	return nil
}

// lab holds what one row has started, in a folder of its own.
type lab struct {
	opts    Options
	dir     string
	closers []func() error
}

func (l *lab) closing(f func() error) { l.closers = append(l.closers, f) }

func (l *lab) close() (err error) {
	for i := len(l.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, l.closers[i]())
	}
	l.closers = nil
	return err
}

func (l *lab) start(args ...string) (*process, error) {
	p, err := startProcess(l.opts.Child(args...))
	if err == nil {
		l.closing(p.stop)
	}
	return p, err
}

// dial connects to an address for the life of the lab.
func (l *lab) dial(address string) (*grpc.ClientConn, error) {
	conn, err := dialBare(address)
	if err == nil {
		l.closing(conn.Close)
	}
	return conn, err
}

// echo starts the bare server and connects to it; with two hops to one that passes it on.
func (l *lab) echo(hops int) (*grpc.ClientConn, error) {
	p, err := l.start("echo")
	if err == nil && hops == 2 {
		p, err = l.start("forward", p.address)
	}
	if err != nil {
		return nil, err
	}
	return l.dial(p.address)
}

// log connects to a node as services do.
func (l *lab) log(address string) (*es.Client, error) {
	log, err := es.Open(es.Config{URL: storeURL(address)})
	if err == nil {
		l.closing(log.Close)
	}
	return log, err
}

func storeURL(address string) string { return "esdb://" + address + "?tls=false" }
