package es_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// The log says by itself what its events mean.
func TestSchema(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	var wg sync.WaitGroup
	for range 8 { // all programs start at once
		wg.Go(func() {
			if _, err := es.WriteSchema(t.Context(), log); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	stream, err := es.WriteSchema(t.Context(), log)
	if err != nil {
		t.Fatal(err)
	}
	events := log.Events()
	if len(events) != 1 || events[0].Stream != stream || !strings.HasPrefix(stream, "schema-") || len(stream) != len("schema-")+64 {
		t.Fatalf("%d events, stream %s", len(events), stream)
	}
	if n := len(events[0].Data); n > 1<<20 {
		t.Fatalf("the schema has %d bytes, more than one append takes", n)
	}
	t.Logf("schema of %d bytes", len(events[0].Data))

	schema, err := es.ReadSchema(t.Context(), log, stream)
	if err != nil {
		t.Fatal(err)
	}
	message := estest.Example(t, personv1.File_waymark_person_v1_events_proto.Messages().ByName("PersonRegistered"))
	data, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	full := es.Recorded{Stream: "person-a", Type: string(message.ProtoReflect().Descriptor().FullName()), Data: data}
	linked, err := es.JSON(full)
	if err != nil {
		t.Fatal(err)
	}
	found, err := schema.JSON(full)
	if err != nil || !bytes.Equal(linked, found) {
		t.Errorf("by the linked contract %s\nby the stored one %s, %v", linked, found, err)
	}
	_, err = es.ReadSchema(t.Context(), log, "schema-none")
	wantCode(t, err, "es.schema_missing", codes.NotFound)
}
