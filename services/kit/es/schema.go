package es

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/fault"
)

// WriteSchema appends the contracts that this program links to the log, unless
// they are there, and returns their stream, "schema-<SHA-256>". A program calls
// it at its start, before it writes events of those contracts.
func WriteSchema(ctx context.Context, log Log) (stream string, err error) {
	set := linkedContracts()
	if len(set.File) == 0 {
		return "", errors.New("es: this program links no contract")
	}
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	id := hex.EncodeToString(sum[:])
	schemas := NewStreams(log, Decider[bool]{Category: "schema", Evolve: func(_ bool, e proto.Message) bool {
		if _, ok := e.(*metav1.Schema); !ok {
			panic(Unhandled(e))
		}
		return true
	}}, Options{Key: sum[:]}) // the request holds no secret
	cmd := schemaRequest{&metav1.Command{
		CommandId: uuid.NewSHA1(uuid.NameSpaceOID, sum[:]).String(),
		Actor:     &metav1.Actor{User: "waymark"},
		Purpose:   "HSYSADMIN",
	}}
	_, err = schemas.Do(ctx, id, cmd, func(there bool) ([]proto.Message, error) {
		if there {
			return nil, nil
		}
		return []proto.Message{&metav1.Schema{FileDescriptorSet: content}}, nil
	})
	return "schema-" + id, err
}

type schemaRequest struct{ *metav1.Command }

func (r schemaRequest) GetCommand() *metav1.Command { return r.Command }

// linkedContracts returns every linked file of ours and all they import, imports
// first, in an order that depends on nothing else.
func linkedContracts() *descriptorpb.FileDescriptorSet {
	var ours []protoreflect.FileDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(f.Path(), "waymark/") {
			ours = append(ours, f)
		}
		return true
	})
	slices.SortFunc(ours, func(a, b protoreflect.FileDescriptor) int { return strings.Compare(a.Path(), b.Path()) })
	set := new(descriptorpb.FileDescriptorSet)
	seen := make(map[string]bool)
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] || f.IsPlaceholder() {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	for _, f := range ours {
		add(f)
	}
	return set
}

// Schema reads events by contracts that were found in the log, not by those that
// this program links.
type Schema struct{ types *dynamicpb.Types }

// ReadSchema returns the contracts stored in a stream that WriteSchema named.
func ReadSchema(ctx context.Context, log Log, stream string) (*Schema, error) {
	var schema *Schema
	err := log.Read(ctx, stream, 0, func(e Recorded) error {
		if e.Type != string((*metav1.Schema)(nil).ProtoReflect().Descriptor().FullName()) {
			return fmt.Errorf("stream %s, revision %d: %s is no schema", e.Stream, e.Revision, e.Type)
		}
		var m metav1.Schema
		set := new(descriptorpb.FileDescriptorSet)
		if err := proto.Unmarshal(e.Data, &m); err != nil {
			return err
		}
		if err := proto.Unmarshal(m.FileDescriptorSet, set); err != nil {
			return err
		}
		files, err := protodesc.NewFiles(set)
		if err != nil {
			return err
		}
		schema = &Schema{dynamicpb.NewTypes(files)}
		return nil
	})
	if err != nil {
		return nil, outage(ctx, err)
	}
	if schema == nil {
		return nil, fault.NotFound("es.schema_missing", "the log has no stream "+stream)
	}
	return schema, nil
}

// JSON renders e as JSON does, by the contracts of s.
func (s *Schema) JSON(e Recorded) ([]byte, error) { return renderJSON(e, s.types) }
