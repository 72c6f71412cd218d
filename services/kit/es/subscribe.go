package es

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
)

// Subscribe implements Log.
func (c *Client) Subscribe(ctx context.Context, after Position, filter Filter, handle func(Message) error) error {
	wait := 20 * time.Millisecond
	for {
		s, err := c.enter(ctx, math.MaxInt64)
		if err != nil && ctx.Err() == nil {
			return err // closed
		}
		if ctx.Err() != nil {
			if err == nil {
				c.leave(s)
			}
			return ctx.Err()
		}
		before := after
		failed, err := c.follow(ctx, s, filter, &after, handle)
		c.leave(s)
		if failed != nil {
			return failed
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.logger.Debug("subscription dropped", slog.String("error", err.Error()))
		if after != before {
			wait = 20 * time.Millisecond
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		case <-c.closing:
			return errUnavailable
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// follow hands on what one subscription brings and moves after along. It returns
// the error of handle as failed, or why the subscription ended.
func (c *Client) follow(ctx context.Context, s *session, filter Filter, after *Position, handle func(Message) error) (failed, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages, done := make(chan Message, 64), make(chan error, 1)
	from := *after
	if !c.spawn(func() {
		done <- recovered(ctx, func(ctx context.Context) error { return receive(ctx, s.client, from, filter, messages) })
	}) {
		return nil, errUnavailable
	}
	// Until the store confirms, nothing tells a slow store from a dead one.
	for {
		select {
		case m := <-messages:
			if m.Event != nil && m.Event.Position <= *after {
				continue // each event once, whatever the store repeats
			}
			if err := handle(m); err != nil {
				return err, nil
			}
			if m.Event != nil {
				*after = m.Event.Position
			}
		case err := <-done:
			return nil, c.judge(ctx, s, err)
		case <-s.gone:
			return nil, errUnavailable
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.closing:
			return nil, errUnavailable
		}
	}
}

// errDropped is a drop without a reason.
var errDropped = errors.New("dropped")

// receive subscribes and passes messages on until the subscription or ctx ends.
func receive(ctx context.Context, client *esdb.Client, after Position, filter Filter, messages chan<- Message) error {
	// About 1,000 events that do not pass the filter between two checkpoints, which are not used.
	opts := esdb.SubscribeToAllOptions{From: allPosition(after), MaxSearchWindow: 32, CheckpointInterval: 32, Filter: &esdb.SubscriptionFilter{Type: esdb.StreamFilterType}}
	if len(filter.Categories) == 0 {
		opts.Filter.Regex = `^[^$]`
	}
	for _, category := range filter.Categories {
		opts.Filter.Prefixes = append(opts.Filter.Prefixes, category+"-")
	}
	sub, err := client.SubscribeToAll(ctx, opts)
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		var m Message
		switch e := sub.Recv(); {
		case e.SubscriptionDropped != nil:
			if err := e.SubscriptionDropped.Error; err != nil {
				return err
			}
			return errDropped
		case e.EventAppeared != nil:
			r := recorded(e.EventAppeared.OriginalEvent())
			m.Event = &r
		case e.CaughtUp != nil:
			m.CaughtUp = true
		default: // a checkpoint, or news of falling behind
			continue
		}
		select {
		case messages <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
