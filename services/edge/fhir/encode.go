package fhir

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Encode writes a resource as JSON, its elements in the order of R4, then what
// was Kept. It fails for what is no JSON: a Decimal that is no number, a string
// that is not UTF-8. It does not look whether the resource is right; Decode does.
func Encode(r Resource) ([]byte, error) {
	e := encoder{model: theModel()}
	if err := e.resource(r); err != nil {
		return nil, err
	}
	return e.out, nil
}

type encoder struct {
	*model
	out []byte
}

func (e *encoder) resource(r Resource) error {
	if r == nil || reflect.ValueOf(r).IsNil() {
		return errors.New("fhir: a nil resource")
	}
	if o, ok := r.(*Other); ok {
		if !jsontext.Value(o.Raw).IsValid() {
			return fmt.Errorf("fhir: Raw of an Other is no JSON")
		}
		e.out = append(e.out, o.Raw...)
		return nil
	}
	v := reflect.ValueOf(r).Elem()
	e.out = append(e.out, `{"resourceType":"`...)
	e.out = append(append(e.out, r.ResourceType()...), '"')
	return e.members(e.layouts[v.Type()], v)
}

func (e *encoder) object(l *layout, v reflect.Value) error {
	e.out = append(e.out, '{')
	return e.members(l, v)
}

// members writes the fields of v, what it kept, and the end of the object.
func (e *encoder) members(l *layout, v reflect.Value) error {
	for i := range l.fields {
		f := &l.fields[i]
		value := v.Field(f.index)
		if value.IsZero() || f.list && value.Len() == 0 {
			continue
		}
		name, kind, below := f.name, f.kind, f.below
		if f.kind == "choice" {
			value = value.Elem()
			if value.Kind() == reflect.Pointer && value.IsNil() {
				continue
			}
			suffix, ok := e.names[value.Type()]
			if !ok {
				return fmt.Errorf("fhir: %s[x] cannot be a %s", f.name, value.Type())
			}
			c := e.choices[suffix]
			name, kind, below = f.name+suffix, c.kind, c.below
		}
		e.begin(name)
		if !f.list {
			if err := e.one(kind, below, value); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			continue
		}
		e.out = append(e.out, '[')
		for i := range value.Len() {
			if i > 0 {
				e.out = append(e.out, ',')
			}
			if err := e.one(kind, below, value.Index(i)); err != nil {
				return fmt.Errorf("%s[%d]: %w", f.name, i, err)
			}
		}
		e.out = append(e.out, ']')
	}
	if kept := v.Field(0).Interface().(*Kept); kept != nil {
		if err := e.kept(l, kept); err != nil {
			return err
		}
	}
	e.out = append(e.out, '}')
	return nil
}

// kept writes what has no field, in the order of the names.
func (e *encoder) kept(l *layout, kept *Kept) error {
	element := e.layouts[reflect.TypeFor[Element]()]
	for _, name := range slices.Sorted(maps.Keys(kept.Primitives)) {
		n, ok := l.names[name]
		if !ok {
			return fmt.Errorf("fhir: _%s is no element", name)
		}
		e.begin("_" + name)
		if l.fields[n].list {
			e.out = append(e.out, '[')
		}
		for i := range kept.Primitives[name] {
			one := &kept.Primitives[name][i]
			if i > 0 {
				e.out = append(e.out, ',')
			}
			if one.isZero() {
				e.out = append(e.out, "null"...)
			} else if err := e.object(element, reflect.ValueOf(one).Elem()); err != nil {
				return err
			}
		}
		if l.fields[n].list {
			e.out = append(e.out, ']')
		}
	}
	for _, name := range slices.Sorted(maps.Keys(kept.Unknown)) {
		raw := jsontext.Value(bytes.Clone(kept.Unknown[name]))
		if err := raw.Compact(); err != nil {
			return fmt.Errorf("fhir: what is kept under %q is no JSON", name)
		}
		e.begin(name)
		e.out = append(e.out, raw...)
	}
	return nil
}

// begin writes the name of a member.
func (e *encoder) begin(name string) {
	if e.out[len(e.out)-1] != '{' {
		e.out = append(e.out, ',')
	}
	e.out, _ = jsontext.AppendQuote(e.out, name) // names were read from JSON, or are ours
	e.out = append(e.out, ':')
}

func (e *encoder) one(kind string, below *layout, v reflect.Value) error {
	if kind == "Resource" {
		r, _ := v.Interface().(Resource) // nil is an error
		return e.resource(r)
	}
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if below != nil {
		return e.object(below, v)
	}
	switch v.Kind() {
	case reflect.Bool:
		e.out = strconv.AppendBool(e.out, v.Bool())
	case reflect.Int32:
		e.out = strconv.AppendInt(e.out, v.Int(), 10)
	case reflect.String:
		text := v.String()
		switch {
		case kind == "decimal":
			if number := jsontext.Value(text); !number.IsValid() || number.Kind() != '0' {
				return errors.New("fhir: a decimal that is no number")
			}
			e.out = append(e.out, text...)
		case text == "": // in a list: only an extension is there
			e.out = append(e.out, "null"...)
		default:
			var err error
			if e.out, err = jsontext.AppendQuote(e.out, text); err != nil {
				return errors.New("fhir: a string that is not UTF-8")
			}
		}
	}
	return nil
}
