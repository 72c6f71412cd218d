package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress shows on stderr how far a long command is: one line rewritten on a
// terminal, a line each ten percent elsewhere, nothing with --quiet or in the
// first second.
type progress struct {
	c    *cli
	verb string
	tty  bool

	begun time.Time

	mu      sync.Mutex
	shown   time.Time
	tenth   uint64
	written bool
}

func (c *cli) progress(verb string) *progress {
	f, ok := c.err.(*os.File)
	return &progress{c: c, verb: verb, begun: time.Now(), tty: ok && term.IsTerminal(int(f.Fd()))}
}

// set says that done of total are done; total may grow.
func (p *progress) set(done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.c.quiet || total == 0 || time.Since(p.begun) < time.Second {
		return
	}
	tenth := done * 10 / total
	switch {
	case p.tty && time.Since(p.shown) > 100*time.Millisecond:
		fmt.Fprintf(p.c.err, "\r%s %d of %d (%d %%) ", p.verb, done, total, done*100/total)
		p.shown, p.written = time.Now(), true
	case !p.tty && tenth > p.tenth:
		fmt.Fprintf(p.c.err, "%s %d of %d (%d %%)\n", p.verb, done, total, done*100/total)
		p.tenth = tenth
	}
}

func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.written {
		fmt.Fprintln(p.c.err)
	}
}
