// Package fhir is a model of FHIR R4 (4.0.1) for what Waymark speaks, and the
// codec of its JSON. It does no I/O.
//
// The structs in model_gen.go are generated from HL7's definitions (make gen);
// the codec is one walk over them, told by their tags what R4 says.
//
// Decode is strict and lossless at once. Whatever is not R4 becomes an Issue that
// names the element by its FHIRPath, and is kept all the same: Encode writes back
// what Decode read, but for white space, the order of members, and how a string
// is escaped. So a caller may refuse, or repair, or pass on.
//
//	codec.go    what the tags say; Decode
//	encode.go   Encode
//	check.go    the forms of primitive types, value sets
//	issue.go    issues, and the OperationOutcome of them
package fhir

import "encoding/json"

// Resource is a pointer to a struct of the model, or an *Other.
type Resource interface {
	ResourceType() string
	common() (id *string, meta **Meta)
}

// Value is a choice, R4's value[x]: a pointer to a datatype (*Quantity), or one
// of the primitive types that are named for it (String, Boolean, DateTime).
type Value interface{ choice() }

// Kept is what an element held that its struct has no field for.
type Kept struct {
	// Primitives are ids and extensions of primitive elements, "_name" in JSON, by
	// the name without "_". For a list they are one for each item, an empty Element where
	// JSON has null; otherwise there is one.
	Primitives map[string][]Element
	// Unknown are the members that R4 does not have here, or that are of another
	// type than R4 says, as they came.
	Unknown map[string]json.RawMessage
}

// Other is a resource that the model has no struct for, as it came.
type Other struct {
	Type string
	ID   string
	Raw  json.RawMessage // whole; Encode writes it and nothing else
	meta *Meta
}

// ResourceType is the type that the resource says it has.
func (o *Other) ResourceType() string              { return o.Type }
func (o *Other) common() (id *string, meta **Meta) { return &o.ID, &o.meta }

// ID of a resource.
func ID(r Resource) string {
	id, _ := r.common()
	return *id
}

// MetaOf a resource, nil when it has none. An Other's is not looked at.
func MetaOf(r Resource) *Meta {
	_, meta := r.common()
	return *meta
}

// SetHead sets the id and meta of a resource of the model.
func SetHead(r Resource, id string, meta *Meta) {
	i, m := r.common()
	*i, *m = id, meta
}
