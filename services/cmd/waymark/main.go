package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the build: git describe.
var version = "unknown"

func main() {
	if os.Getenv("GOGC") == "" {
		paceGC() // GOMEMLIMIT still holds
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	os.Exit(newCLI(os.Stdin, os.Stdout, os.Stderr, os.Environ()).execute(ctx, os.Args[1:]))
}
