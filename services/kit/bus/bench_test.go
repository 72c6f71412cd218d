package bus

import (
	"context"
	"testing"

	"waymark/services/kit/estest"
)

// BenchmarkRelay fills a stream that flushes every write, from a log in memory.
// It reports events a second; what it costs to read the log is not in it.
func BenchmarkRelay(b *testing.B) {
	const events = 20_000
	log := estest.NewLog()
	writeMany(b, log, 0, events)
	for b.Loop() {
		b.StopTimer()
		n := startNATS(b)
		js := n.connect()
		b.StartTimer()
		fill(b, log, js)
		b.StopTimer()
		n.stop()
		b.StartTimer()
	}
	b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkRelayLive measures one event after the other: from the append to the
// handler of a consumer.
func BenchmarkRelayLive(b *testing.B) {
	n, log := startNATS(b), estest.NewLog()
	js := n.connect()
	background(b, NewRelay(log, n.connect(), RelayOptions{}).Run)
	heard := make(chan struct{}, 16)
	background(b, func(ctx context.Context) error {
		return Consume(ctx, js, ConsumeOptions{Name: "bench"}, func(context.Context, Event) error {
			heard <- struct{}{}
			return nil
		})
	})
	i := 0
	writeMany(b, log, i, i+1)
	<-heard
	for b.Loop() {
		i++
		writeMany(b, log, i, i+1)
		<-heard
	}
}

// BenchmarkMapping is one event through redaction, CloudEvent and JSON, and back.
func BenchmarkMapping(b *testing.B) {
	log := estest.NewLog()
	writeMany(b, log, 0, 1)
	e := log.Events()[0]
	m := newMapper(Mapping{})
	b.Run("there", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.message(&e, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	msg, err := m.message(&e, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("back", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := decode(m.types, place{sequence: 1, position: 64}, msg.Subject, msg.Data); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkScrub compares a stream with the log.
func BenchmarkScrub(b *testing.B) {
	const events = 20_000
	log, n := estest.NewLog(), startNATS(b)
	writeMany(b, log, 0, events)
	js := n.connect()
	fill(b, log, js)
	for b.Loop() {
		if r := scrub(b, log, js); r.Verified != events {
			b.Fatalf("%+v", r)
		}
	}
	b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
