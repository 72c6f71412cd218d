package sim

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	pathwayv1 "waymark/proto/waymark/pathway/v1"
)

// watcher knows of a party's pathways, or of one, what Watch tells it. It is cut off
// again and again, and goes on after the last message that it has, at any process.
type watcher struct {
	w     *world
	a     *actor
	party string
	one   *watcher // nil with a party; else whose first pathway this watches

	known atomic.Pointer[string] // the first pathway that it was told of
	after uint64
	held  map[string]*pathwayv1.Pathway
}

// picture is what a watcher knows at the end.
type picture struct {
	of   *watcher
	held map[string]*pathwayv1.Pathway
}

// watch starts a watcher of a party and one of a pathway. They end with ctx.
func (w *world) watch(ctx context.Context, all *sync.WaitGroup) {
	if len(w.processes) == 0 || w.opt.Clients == 0 {
		return
	}
	a := w.actor("watcher")
	party := "BREAST" // it holds every pathway at first
	if chance(a.draw("party"), 25) {
		party = leads()[a.draw("lead").IntN(len(leads()))]
	}
	team := &watcher{w: w, a: a, party: party, held: map[string]*pathwayv1.Pathway{}}
	w.watchers = []*watcher{team, {w: w, a: w.actor("watcher of one"), one: team, held: map[string]*pathwayv1.Pathway{}}}
	for _, x := range w.watchers {
		w.mu.Lock()
		w.history.links = append(w.history.links, x.a)
		w.mu.Unlock()
		all.Go(func() { x.run(ctx) })
	}
}

func (x *watcher) run(ctx context.Context) {
	for x.a.wait(ctx, "away", 2*time.Second) == nil {
		to := x.w.anybody(x.a)
		if to == nil || x.w.cutOff(x.a) || x.one != nil && x.one.known.Load() == nil {
			continue
		}
		within, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(to.ctx, cancel)
		x.follow(within, to, func(m *pathwayv1.WatchResponse) bool {
			if x.a.wait(within, "deliver", x.w.opt.Delay) != nil || to.ctx.Err() != nil || x.w.cutOff(x.a) {
				return false
			}
			if x.w.faulty() && chance(x.a.draw("break"), 20) {
				return false
			}
			x.take(m)
			return true
		})
		stop()
		cancel()
	}
}

// follow goes on where the watcher stands, until take returns false or the connection breaks.
func (x *watcher) follow(ctx context.Context, to *peer, take func(*pathwayv1.WatchResponse) bool) {
	req := &pathwayv1.WatchRequest{What: &pathwayv1.WatchRequest_PartyId{PartyId: x.party}, AfterPosition: x.after}
	if x.one != nil {
		req.What = &pathwayv1.WatchRequest_PathwayId{PathwayId: *x.one.known.Load()}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pathwayv1.NewPathwayQueryServiceClient(to.conn).Watch(ctx, req)
	for err == nil {
		var m *pathwayv1.WatchResponse
		if m, err = stream.Recv(); to.ctx.Err() != nil || err == nil && !take(m) {
			return
		}
	}
	if ctx.Err() == nil && !passing(err) {
		x.w.fail("%s, after position %d: %v", x.a.name, x.after, err)
	}
}

func (x *watcher) take(m *pathwayv1.WatchResponse) {
	id := m.Pathway.GetPathwayId()
	x.a.trace(fmt.Sprint("told of ", id, " at ", m.Position, m.Left, m.CaughtUp), x.a.now())
	if m.Position < x.after {
		x.w.fail("%s was told of position %d after %d", x.a.name, m.Position, x.after)
	}
	x.after = m.Position
	switch {
	case m.CaughtUp:
	case m.Left:
		if x.held[id] != nil {
			x.w.count(func(r *Result) { r.Rows["Watch left"]++ })
		}
		delete(x.held, id)
	default:
		x.held[id] = m.Pathway
		x.known.CompareAndSwap(nil, &id)
	}
}

// pictures lets each watcher go on a last time, at one process, until it knows all.
func (w *world) pictures(ctx context.Context, to *peer) (out []picture) {
	for _, x := range w.watchers {
		if x.one != nil && x.one.known.Load() == nil {
			continue
		}
		complete := false
		x.follow(ctx, to, func(m *pathwayv1.WatchResponse) bool {
			x.take(m)
			complete = m.CaughtUp
			return !complete
		})
		if !complete {
			w.fail("%s did not come to know all", x.a.name)
		}
		out = append(out, picture{x, maps.Clone(x.held)})
	}
	return out
}

// watched compares what watchers know with a fold of the log.
func (r *Result) watched(l listed, fresh []proto.Message) {
	for _, p := range l.pictures {
		for i, id := range l.pathways {
			want := fresh[i].(*pathwayv1.Pathway)
			if p.of.one == nil && !strings.EqualFold(want.Holder.GetId(), p.of.party) || p.of.one != nil && id != *p.of.one.known.Load() {
				want = nil
			}
			switch is := p.held[id]; {
			case want == nil && is != nil:
				r.unexplained("%s of %s at %s was not told that pathway %s left", p.of.a.name, p.of.party, l.process, id)
			case want != nil && is == nil:
				r.unexplained("%s of %s at %s was not told of pathway %s", p.of.a.name, p.of.party, l.process, id)
			case want != nil && !proto.Equal(is, want):
				r.unexplained("%s at %s knows another pathway %s than the log: %s", p.of.a.name, l.process, id, differ(is, want))
			case want != nil:
				r.Rows["Watch"]++
			}
		}
	}
}
