package es

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
)

// Config of a Client. URL is required; all else has a sound zero value.
type Config struct {
	// URL is a connection string: esdb://127.0.0.1:2113?tls=false for one node,
	// esdb+discover://host or several hosts for a cluster.
	URL string
	// Timeout caps a call whose context has no deadline, and how long a read waits
	// for its next event; 0 means 5 s.
	Timeout time.Duration
	Logger  *slog.Logger // nil discards
}

// Client is the Log of an EventStoreDB-protocol store. It connects by itself, as
// often as needed; only Close ends it.
type Client struct {
	sessions
	timeout time.Duration
}

// Open returns a client of the store at cfg.URL. It does not wait for the store;
// Health tells whether it is there.
func Open(cfg Config) (*Client, error) {
	config, err := esdb.ParseConnectionString(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("event store address: %w", err)
	}
	c := &Client{timeout: cfg.Timeout}
	if c.timeout <= 0 {
		c.timeout = 5 * time.Second
	}
	// One try each: supervise makes the next client, at its own pace.
	config.MaxDiscoverAttempts, config.DiscoveryInterval, config.GossipTimeout = 1, 1, 1
	config.Logger = esdb.NoopLogging()
	c.sessions = sessions{config: config, logger: cfg.Logger, closing: make(chan struct{}),
		suspected: make(chan struct{}, 1), up: make(chan struct{})}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	c.work.Add(1)
	go c.supervise()
	return c, nil
}

// Close ends the connection, all calls and subscriptions, and waits for them.
func (c *Client) Close() error {
	c.mu.Lock()
	select {
	case <-c.closing:
	default:
		close(c.closing)
	}
	c.mu.Unlock()
	c.work.Wait()
	return nil
}

// on runs f on the session within ctx, or within the client's own timeout where
// ctx has no deadline.
func (c *Client) on(ctx context.Context, patience time.Duration, f func(context.Context, *session) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	s, err := c.enter(ctx, patience)
	if err != nil {
		return err
	}
	defer c.leave(s)
	return c.judge(ctx, s, f(ctx, s))
}

// call runs f, which calls the library.
func (c *Client) call(ctx context.Context, patience time.Duration, f func(context.Context, *esdb.Client) error) error {
	return c.on(ctx, patience, func(ctx context.Context, s *session) error {
		return c.guard(ctx, func(ctx context.Context) error { return f(ctx, s.client) })
	})
}

// Append implements Log.
func (c *Client) Append(ctx context.Context, stream string, expected Revision, events []NewEvent) (Appended, error) {
	if len(events) == 0 {
		return Appended{}, errNothing
	}
	return c.append(ctx, patience, stream, expected, events)
}

func (c *Client) append(ctx context.Context, patience time.Duration, stream string, expected Revision, events []NewEvent) (done Appended, err error) {
	err = c.on(ctx, patience, func(ctx context.Context, s *session) (err error) {
		if s.writer != nil {
			done, err = s.writer.append(ctx, c.closing, stream, expected, events)
			return err
		}
		var result *esdb.WriteResult
		err = c.guard(ctx, func(ctx context.Context) error {
			r, err := s.client.AppendToStream(ctx, stream, esdb.AppendToStreamOptions{ExpectedRevision: expectedRevision(expected)}, eventData(events)...)
			if err != nil {
				return wrongRevision(expected, err)
			}
			result = r // read only when guard returns nil, so after this
			return nil
		})
		if err == nil {
			done = Appended{Revision: Revision(result.NextExpectedVersion), Position: Position(result.CommitPosition)}
		}
		return err
	})
	return done, err
}

func eventData(events []NewEvent) []esdb.EventData {
	data := make([]esdb.EventData, len(events))
	for i, e := range events {
		data[i] = esdb.EventData{EventID: e.ID, EventType: e.Type, ContentType: esdb.ContentTypeBinary, Data: e.Data, Metadata: e.Metadata}
	}
	return data
}

var errNothing = errors.New("es: an append without events")

func expectedRevision(r Revision) esdb.ExpectedRevision {
	switch r {
	case anyRevision:
		return esdb.Any{}
	case NoStream:
		return esdb.NoStream{}
	}
	return esdb.Revision(uint64(r))
}

// wrongRevision finds out what revision the stream has, which the library tells
// in words only: "... but got '17'".
func wrongRevision(expected Revision, err error) error {
	var e *esdb.Error
	if !errors.As(err, &e) || !e.IsErrorCode(esdb.ErrorCodeWrongExpectedVersion) {
		return err
	}
	actual := Revision(NoStream)
	if _, got, ok := strings.Cut(e.Err().Error(), "but got '"); ok {
		if n, err := strconv.ParseInt(strings.TrimSuffix(got, "'"), 10, 64); err == nil {
			actual = Revision(n)
		}
	}
	return &WrongRevision{Expected: expected, Actual: actual}
}

// Read implements Log.
func (c *Client) Read(ctx context.Context, stream string, from Revision, yield func(Recorded) error) error {
	return c.read(ctx, func(ctx context.Context, client *esdb.Client) (*esdb.ReadStream, error) {
		return client.ReadStream(ctx, stream, esdb.ReadStreamOptions{From: esdb.Revision(uint64(max(from, 0)))}, math.MaxInt64)
	}, yield)
}

// ReadAll implements Log.
func (c *Client) ReadAll(ctx context.Context, after Position, yield func(Recorded) error) error {
	head, err := c.Head(ctx)
	if err != nil || head <= after {
		return err
	}
	err = c.read(ctx, func(ctx context.Context, client *esdb.Client) (*esdb.ReadStream, error) {
		return client.ReadAll(ctx, esdb.ReadAllOptions{From: allPosition(after)}, math.MaxInt64)
	}, func(e Recorded) error {
		switch {
		case e.Position <= after: // the store hands the position itself on too
		case e.Position > head:
			return io.EOF
		case !strings.HasPrefix(e.Stream, "$"):
			if err := yield(e); err != nil {
				return err
			}
			if e.Position == head {
				return io.EOF
			}
		}
		return nil
	})
	if err == io.EOF {
		return nil
	}
	return err
}

func allPosition(p Position) esdb.AllPosition {
	if p == 0 {
		return esdb.Start{}
	}
	return esdb.Position{Commit: uint64(p), Prepare: uint64(p)}
}

// read yields what open's stream brings, in the caller's goroutine. It may last
// as long as events come, unless ctx has a deadline.
func (c *Client) read(ctx context.Context, open func(context.Context, *esdb.Client) (*esdb.ReadStream, error), yield func(Recorded) error) error {
	s, err := c.enter(ctx, patience)
	if err != nil {
		return err
	}
	defer c.leave(s)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type ending struct {
		rest []Recorded
		err  error
	}
	full, done := make(chan []Recorded), make(chan ending, 1)
	var arrived atomic.Int64
	started := c.spawn(func() {
		var batch []Recorded
		err := recovered(ctx, func(ctx context.Context) (err error) {
			batch, err = collect(ctx, s.client, open, full, &arrived)
			return err
		})
		done <- ending{batch, err}
	})
	if !started {
		return errUnavailable
	}
	idle := time.NewTimer(c.timeout)
	defer idle.Stop()
	each := func(batch []Recorded) error {
		for _, e := range batch {
			if err := yield(e); err != nil {
				return err
			}
		}
		return nil
	}
	for seen := int64(0); ; {
		select {
		case batch := <-full:
			if err := each(batch); err != nil {
				return err
			}
			idle.Reset(c.timeout)
		case end := <-done:
			if err := each(end.rest); err != nil || end.err == nil {
				return err
			}
			return c.judge(ctx, s, end.err)
		case <-ctx.Done():
			return c.judge(ctx, s, ctx.Err())
		case <-idle.C:
			if n := arrived.Load(); n != seen {
				seen = n
				idle.Reset(c.timeout)
				continue
			}
			c.suspect()
			return outage(ctx, context.DeadlineExceeded)
		case <-c.closing:
			return errUnavailable
		}
	}
}

// batchSize is how many events are handed over at once: waking the reader for each
// costs more than the event itself. A short stream is handed over when it ends.
const batchSize = 64

// collect hands on the events of a stream in batches, and returns the last one.
func collect(ctx context.Context, client *esdb.Client, open func(context.Context, *esdb.Client) (*esdb.ReadStream, error), to chan<- []Recorded, arrived *atomic.Int64) (batch []Recorded, err error) {
	stream, err := open(ctx, client)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	for {
		e, err := stream.Recv()
		var missing *esdb.Error
		if errors.Is(err, io.EOF) || errors.As(err, &missing) && missing.IsErrorCode(esdb.ErrorCodeResourceNotFound) {
			return batch, nil
		}
		if err != nil {
			return batch, err
		}
		if batch == nil {
			batch = make([]Recorded, 0, 16)
		}
		batch = append(batch, recorded(e.OriginalEvent()))
		arrived.Add(1)
		if len(batch) < batchSize {
			continue
		}
		select {
		case to <- batch:
			batch = nil
		case <-ctx.Done():
			return batch, ctx.Err()
		}
	}
}

func recorded(e *esdb.RecordedEvent) Recorded {
	return Recorded{
		ID: e.EventID, Stream: e.StreamID, Revision: Revision(e.EventNumber), Position: Position(e.Position.Commit),
		Type: e.EventType, Data: e.Data, Metadata: e.UserMetadata, Recorded: e.CreatedDate,
	}
}

// Head implements Log.
func (c *Client) Head(ctx context.Context) (Position, error) {
	var head Position
	err := c.call(ctx, patience, func(ctx context.Context, client *esdb.Client) error {
		e, err := newest(ctx, client, func(e *esdb.RecordedEvent) bool { return !strings.HasPrefix(e.StreamID, "$") })
		if err == nil && e != nil {
			head = Position(e.Position.Commit)
		}
		return err
	})
	if err != nil {
		return 0, err // head may still be written to
	}
	return head, nil
}

// newest returns the last event of the log that counts, nil when there is none.
func newest(ctx context.Context, client *esdb.Client, counts func(*esdb.RecordedEvent) bool) (*esdb.RecordedEvent, error) {
	var from esdb.AllPosition = esdb.End{}
	for page := uint64(1); ; page = 64 {
		stream, err := client.ReadAll(ctx, esdb.ReadAllOptions{Direction: esdb.Backwards, From: from}, page)
		if err != nil {
			return nil, err
		}
		for n := uint64(0); ; n++ {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				if stream.Close(); n < page {
					return nil, nil
				}
				break
			}
			if err != nil {
				stream.Close()
				return nil, err
			}
			if o := e.OriginalEvent(); counts(o) {
				stream.Close()
				return o, nil
			} else {
				from = o.Position
			}
		}
	}
}

// SetMaxCount implements Log.
func (c *Client) SetMaxCount(ctx context.Context, stream string, n int) error {
	return c.call(ctx, patience, func(ctx context.Context, client *esdb.Client) error {
		var m esdb.StreamMetadata
		m.SetMaxCount(uint64(n))
		_, err := client.SetStreamMetadata(ctx, stream, esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, m)
		return err
	})
}

// probeStream takes appends of no events, which ask the store whether it would
// write and leave nothing behind.
const probeStream = "health-probe"

// Health implements Log. Each of its two questions takes 1.5 s at most.
func (c *Client) Health(ctx context.Context) (read, write error) {
	ask := func(question func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		return question(ctx)
	}
	read = ask(func(ctx context.Context) error {
		return c.call(ctx, 0, func(ctx context.Context, client *esdb.Client) error {
			_, err := newest(ctx, client, func(*esdb.RecordedEvent) bool { return true })
			return err
		})
	})
	if read != nil {
		return read, read
	}
	return nil, ask(func(ctx context.Context) error {
		_, err := c.append(ctx, 0, probeStream, anyRevision, nil)
		return err
	})
}
