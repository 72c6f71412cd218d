package es_test

import (
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// FuzzRecorded feeds readers what no writer of ours stored. None may panic; what
// the fast reading of metadata accepts, the JSON says too; and no event but the
// one that was written continues its chain.
func FuzzRecorded(f *testing.F) {
	log := estest.NewLog()
	if _, err := newTallies(log).Do(f.Context(), "a", requestWithID("6f2a9c1e-52c8-4b7e-9d15-0c3b8a7e4f10"), add(1)); err != nil {
		f.Fatal(err)
	}
	written := log.Events()[0]
	f.Add(written.Type, written.Data, written.Metadata)
	f.Add("waymark.meta.v1.Schema", []byte{0x0a, 0x01, 'x'}, []byte(`{"commandId":"`))
	f.Add("waymark.meta.v1.Schema", []byte{0x0a, 0x01, 'x'}, []byte(`{"commandId":"6f2a9c1e-52c8-4b7e-9d15-0c3b8a7e4f10","commandHash":"T5u9clIujHtFvBmq1And3w==","$correlationId":"x","index":0}`))
	f.Add("google.protobuf.Any", []byte{0x0a, 0x03, 'a', '/', 'b'}, []byte(`{}`))
	f.Fuzz(func(t *testing.T, typ string, data, metadata []byte) {
		e := es.Recorded{ID: written.ID, Stream: written.Stream, Type: typ, Data: data, Metadata: metadata, Recorded: written.Recorded}
		if m, err := es.Decode(e); (m == nil) == (err == nil) {
			t.Fatalf("decoded to %v, %v", m, err)
		}
		if line, err := es.JSON(e); err == nil && !json.Valid(line) {
			t.Fatalf("no JSON: %s", line)
		}
		meta, err := es.ParseMetadata(e)
		if id, ok := es.CommandIn(metadata); ok && err == nil && meta.CommandID != id {
			t.Fatalf("command %s by its place, %s by JSON", id, meta.CommandID)
		}
		_, err = es.Chain{}.Next(e)
		if same := typ == written.Type && string(data) == string(written.Data) && string(metadata) == string(written.Metadata); same != (err == nil) {
			t.Fatalf("the same event %v, its chain %v", same, err)
		}
	})
}

// What is folded from cache and what is folded from the log are the same bytes.
func TestEventsAreFoldedAsStored(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	streams := newTallies(log)
	if _, err := streams.Do(t.Context(), "a", newRequest(), add(0, -1, 1<<62)); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{0, -1, 1 << 62} {
		m, err := es.Decode(log.Events()[i])
		if got, ok := m.(*wrapperspb.Int64Value); err != nil || !ok || got.Value != want {
			t.Errorf("event %d: %v, %v", i, m, err)
		}
	}
}
