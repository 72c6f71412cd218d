package allinone

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Ports of an all-in-one system; Options.PortOffset is added to each.
const (
	GRPCPort       = 7400
	HTTPPort       = 7480
	NATSPort       = 4222
	EventStorePort = 2113
	MLLPPort       = 2575
	FHIRPort       = 7450
)

const host = "127.0.0.1"

// ports are the addresses that a system will listen on.
type ports struct{ grpc, http, nats, store, mllp, fhir string }

func (o Options) ports() (ports, error) {
	if o.AnyPort {
		any := net.JoinHostPort(host, "0")
		return ports{any, any, any, any, any, any}, nil
	}
	if o.PortOffset < 1-EventStorePort || o.PortOffset > 65535-HTTPPort {
		return ports{}, fmt.Errorf("--port-offset %d: must be from %d to %d", o.PortOffset, 1-EventStorePort, 65535-HTTPPort)
	}
	at := func(port int) string { return net.JoinHostPort(host, strconv.Itoa(port+o.PortOffset)) }
	return ports{at(GRPCPort), at(HTTPPort), at(NATSPort), at(EventStorePort), at(MLLPPort), at(FHIRPort)}, nil
}

// check says which ports are taken, and by whom, before anything is started.
func (p ports) check() error {
	var taken []string
	for _, want := range []struct{ what, address string }{{"gRPC", p.grpc}, {"HTTP", p.http}, {"NATS", p.nats}, {"event store", p.store}, {"MLLP", p.mllp}, {"FHIR", p.fhir}} {
		lis, err := net.Listen("tcp", want.address)
		if err == nil {
			lis.Close()
			continue
		}
		_, port, _ := net.SplitHostPort(want.address)
		n, _ := strconv.Atoi(port)
		by := ""
		if pid := owner(n); pid != 0 {
			by = " by process " + describe(pid)
		}
		taken = append(taken, fmt.Sprintf("port %s (%s) is taken%s", port, want.what, by))
	}
	if taken == nil {
		return nil
	}
	return errors.New(strings.Join(taken, "\n") + "\nstop it, or move all ports of this one: --port-offset 1000")
}

// owner returns the process that listens on a TCP port, 0 when the system does
// not tell (it is not Linux, or the process is another user's).
func owner(port int) int {
	inode := listening(port)
	if inode == "" {
		return 0
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == "socket:["+inode+"]" {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			return pid
		}
	}
	return 0
}

// listening returns the inode of the socket that listens on port, as
// /proc/net/tcp has it: address:port in hex, state 0A.
func listening(port int) string {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return f[9]
			}
		}
	}
	return ""
}

// describe names a process by pid and, where the system tells, by its command.
func describe(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return strconv.Itoa(pid)
	}
	return fmt.Sprintf("%d (%s)", pid, strings.TrimSpace(string(name)))
}
