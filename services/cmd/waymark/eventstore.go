package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"waymark/services/eventstore"
	"waymark/services/kit/run"
)

// nodeOptions are the settings of the event store node when it runs alone.
type nodeOptions struct {
	Listen   string `flag:"listen" default:"127.0.0.1:2113" help:"address to serve EventStoreDB's gRPC protocol on"`
	Data     string `flag:"data" default:".waymark-eventstore" help:"folder of the store"`
	TLSCert  string `flag:"tls-cert" help:"PEM certificate; with it the node speaks TLS only and asks for credentials"`
	TLSKey   string `flag:"tls-key" help:"PEM file with the key of --tls-cert"`
	AuthFile string `flag:"auth-file" help:"file with a line user:password for each user; needed with TLS"`
	Insecure bool   `flag:"insecure" help:"allow an address that is not loopback without TLS, for instance inside a service mesh"`
	MinFree  int    `flag:"min-free-mib" default:"256" help:"MiB that must be free on the disk for an append to be taken"`
	LogLevel string `flag:"log-level" default:"info" help:"debug, info, warn or error"`
}

func (c *cli) eventstoreCommand() *cobra.Command {
	var o nodeOptions
	cmd := &cobra.Command{
		Use: "eventstore", Short: "Run the event store node alone", Args: cobra.NoArgs,
		Long: `Run the embedded event store node alone. It speaks EventStoreDB's gRPC protocol, so that
any EventStoreDB client can use it; services/eventstore/README.md lists what it does not serve.

Example:
  waymark eventstore --listen 127.0.0.1:2113 --data ./store --insecure`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.eventstore(cmd, o) },
	}
	run.Bind(cmd.Flags(), &o)
	return cmd
}

func (c *cli) eventstore(cmd *cobra.Command, o nodeOptions) error {
	logger, err := run.NewLogger(c.err, "text", o.LogLevel)
	if err != nil {
		return usage(cmd, fmt.Errorf("--log-level: %w", err))
	}
	switch {
	case (o.TLSCert == "") != (o.TLSKey == ""):
		return usage(cmd, errors.New("--tls-cert and --tls-key belong together"))
	case o.TLSCert == "" && !o.Insecure && !isLoopback(o.Listen):
		return usage(cmd, fmt.Errorf("--listen %s is not loopback: give --tls-cert and --tls-key, or --insecure where something else encrypts", o.Listen))
	case o.TLSCert != "" && o.AuthFile == "":
		return usage(cmd, errors.New("with TLS the node asks for credentials: give --auth-file"))
	case o.MinFree < 1:
		return usage(cmd, errors.New("--min-free-mib must be 1 or more"))
	}
	users, err := readUsers(o.AuthFile)
	if err != nil {
		return usage(cmd, err)
	}
	var lc net.ListenConfig
	lis, err := lc.Listen(cmd.Context(), "tcp", o.Listen)
	if err != nil {
		return err
	}
	node, err := eventstore.Open(eventstore.Config{
		Dir: o.Data, TLSCert: o.TLSCert, TLSKey: o.TLSKey, Users: users, MinFree: uint64(o.MinFree) << 20, Logger: logger,
	})
	if err != nil {
		lis.Close()
		return err
	}
	closed := make(chan error, 1)
	stop := context.AfterFunc(cmd.Context(), func() { closed <- node.Close() })
	c.say("event store: %s, data in %s", esdb(lis.Addr().String(), o.TLSCert != ""), o.Data)
	err = node.Serve(lis)
	if stop() { // it ended by itself
		return errors.Join(err, node.Close())
	}
	return errors.Join(err, <-closed)
}

func esdb(address string, tls bool) string { return fmt.Sprintf("esdb://%s?tls=%t", address, tls) }

// readUsers reads lines of user:password. Empty lines and lines that begin with # are skipped.
func readUsers(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	users := map[string]string{}
	for n, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, password, ok := strings.Cut(line, ":")
		if !ok || user == "" || password == "" {
			return nil, fmt.Errorf("%s line %d is not user:password", path, n+1)
		}
		users[user] = password
	}
	if len(users) == 0 {
		return nil, fmt.Errorf("%s holds no user", path)
	}
	return users, nil
}
