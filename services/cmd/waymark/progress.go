package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows on stderr how far a long command is: a bar with rate and time
// left on a terminal, a line each ten percent elsewhere, nothing with --quiet or
// in the first second.
type progress struct {
	c    *cli
	verb string
	tty  bool

	begun time.Time

	mu    sync.Mutex
	bar   *progressbar.ProgressBar
	tenth uint64
}

func (c *cli) progress(verb string) *progress {
	f, ok := c.err.(*os.File)
	return &progress{c: c, verb: verb, begun: time.Now(), tty: ok && term.IsTerminal(int(f.Fd()))}
}

// set says that done of total are done; total may grow.
func (p *progress) set(done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := time.Since(p.begun)
	if p.c.quiet || total == 0 || gone < time.Second {
		return
	}
	if p.tty {
		if p.bar == nil {
			p.bar = progressbar.NewOptions64(int64(total), progressbar.OptionSetWriter(p.c.err), progressbar.OptionSetDescription(p.verb), progressbar.OptionShowCount(),
				progressbar.OptionShowIts(), progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionFullWidth(), progressbar.OptionSetElapsedTime(true))
		}
		p.bar.ChangeMax64(int64(total))
		p.bar.Set64(int64(done))
		return
	}
	tenth := done * 10 / total
	if tenth <= p.tenth {
		return
	}
	p.tenth = tenth
	left := ""
	if done < total {
		left = fmt.Sprintf(", %s left", (gone * time.Duration(total-done) / time.Duration(done)).Round(time.Second))
	}
	fmt.Fprintf(p.c.err, "%s %d of %d (%d %%), %.0f/s%s\n", p.verb, done, total, done*100/total, float64(done)/gone.Seconds(), left)
}

func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.bar.Exit()
		fmt.Fprintln(p.c.err)
	}
}
