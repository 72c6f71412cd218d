package fhir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// layout is what the tags of one struct say. Field 0 of every struct is Kept.
type layout struct {
	resource bool
	fields   []field
	names    map[string]int // JSON name to fields; value[x] under each of its names
	required []int
}

type field struct {
	name  string // in JSON; of a choice without [x]
	kind  string // FHIR type when primitive; "choice", "Resource", or "" for a struct
	list  bool
	set   []string // required value set: pairs of system and codes
	codes bool     // set is that of a primitive code
	index int      // of the Go field
	below *layout  // of a struct
}

// model is every layout, and the types of choices.
type model struct {
	layouts map[reflect.Type]*layout
	choices map[string]choice       // by the part of the name after the element's: "Quantity", "DateTime"
	names   map[reflect.Type]string // the reverse
}

type choice struct {
	kind  string // FHIR name
	typ   reflect.Type
	below *layout // of a pointer to a struct
}

// theModel is read from the tags once, when the first resource is.
var theModel = sync.OnceValue(func() *model {
	m := &model{map[reflect.Type]*layout{}, map[string]choice{}, map[reflect.Type]string{}}
	for name, t := range choiceTypes {
		suffix := strings.ToUpper(name[:1]) + name[1:]
		c := choice{kind: name, typ: t}
		if t.Kind() == reflect.Pointer {
			c.below = m.layout(t.Elem())
		}
		m.choices[suffix] = c
		m.names[t] = suffix
	}
	m.layout(reflect.TypeFor[Element]())
	for _, t := range resourceTypes {
		m.layout(t).resource = true
	}
	return m
})

func (m *model) layout(t reflect.Type) *layout {
	if l, ok := m.layouts[t]; ok {
		return l
	}
	l := &layout{names: map[string]int{}}
	m.layouts[t] = l // before its fields: types are recursive
	for i := 1; i < t.NumField(); i++ {
		parts := strings.Split(t.Field(i).Tag.Get("fhir"), ",")
		typ := t.Field(i).Type
		f := field{name: strings.TrimSuffix(parts[0], "[x]"), kind: parts[1], index: i}
		if f.list = typ.Kind() == reflect.Slice; f.list || typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() == reflect.Struct {
			f.below = m.layout(typ)
		}
		for _, p := range parts[2:] {
			if set, ok := strings.CutPrefix(p, "b="); ok {
				f.set, f.codes = valueSets[set], f.kind == "code"
			} else {
				l.required = append(l.required, len(l.fields))
			}
		}
		if strings.HasSuffix(parts[0], "[x]") {
			for _, name := range strings.Split(f.kind, "|") {
				l.names[f.name+strings.ToUpper(name[:1])+name[1:]] = len(l.fields)
			}
			f.kind = "choice"
		} else {
			l.names[f.name] = len(l.fields)
		}
		l.fields = append(l.fields, f)
	}
	return l
}

// maxDepth is how deeply objects and lists may nest: far more than R4 needs,
// far less than the stack bears.
const maxDepth = 100

// Decode reads one resource, and says everything in it that is not R4: elements
// that are unknown, missing, too many, of the wrong type or form, codes outside a
// required value set. It does not look at invariants, profiles, or what
// references point to. The resource is nil when an issue is fatal: no JSON, or no
// resource.
func Decode(data []byte) (Resource, Issues) {
	d := decoder{model: theModel(), data: data, dec: jsontext.NewDecoder(bytes.NewBuffer(data))}
	fatal := func(code, text string) (Resource, Issues) {
		return nil, append(d.issues, Issue{"fatal", code, "", text})
	}
	if d.dec.PeekKind() != '{' {
		if _, err := d.dec.ReadToken(); err != nil {
			return fatal("structure", syntax(err))
		}
		return fatal("structure", "a resource is a JSON object")
	}
	r, err := d.resource()
	if err != nil {
		return fatal("structure", syntax(err))
	}
	if r == nil {
		return fatal("required", "resourceType must be there, and a string")
	}
	if _, err := d.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return fatal("structure", "one resource, and nothing after it")
	}
	return r, d.issues
}

// decoder holds the state of one Decode.
type decoder struct {
	*model
	data   []byte
	dec    *jsontext.Decoder
	path   []byte // FHIRPath of the element being read
	issues Issues

	faults, remarks int // issues, listed or not
}

// start is where the next value begins in data.
func (d *decoder) start() int {
	at := int(d.dec.InputOffset())
	for at < len(d.data) && strings.IndexByte(" \t\r\n,:", d.data[at]) >= 0 {
		at++
	}
	return at
}

// resource reads the resource that comes next; nil when it does not say its type.
func (d *decoder) resource() (Resource, error) {
	start := d.start()
	name, ok := typeOf(d.data[start:])
	if !ok {
		return nil, d.dec.SkipValue()
	}
	inR4 := plain(name) && strings.Contains(allResources, " "+name+" ")
	if len(d.path) == 0 && inR4 {
		d.path = append(d.path, name...)
	}
	t, ok := resourceTypes[name]
	if !ok {
		if inR4 {
			d.issue("information", "not-supported", "a resource that Waymark has no use for: kept, not checked")
		} else {
			d.issue("error", "structure", "resourceType: R4 has no such resource")
		}
		raw, err := d.dec.ReadValue()
		if err != nil {
			return nil, err
		}
		other := &Other{Type: name, Raw: bytes.Clone(raw)}
		var head struct{ ID string }
		if json.Unmarshal(raw, &head) == nil {
			other.ID = head.ID
		}
		return other, nil
	}
	v := reflect.New(t)
	if err := d.object(d.layouts[t], v.Elem()); err != nil {
		return nil, err
	}
	return v.Interface().(Resource), nil
}

// typeOf finds resourceType in the object that data begins with, whatever
// members come before it. What is wrong with them is found by who reads them.
func typeOf(data []byte) (string, bool) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(data))
	if _, err := dec.ReadToken(); err != nil {
		return "", false
	}
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			return "", false
		}
		if name.String() != "resourceType" {
			if dec.SkipValue() != nil {
				return "", false
			}
			continue
		}
		if dec.PeekKind() != '"' {
			return "", false
		}
		value, err := dec.ReadToken()
		return value.String(), err == nil && value.String() != ""
	}
	return "", false
}

// object reads the members of the object that comes next into the struct v.
// Its error, as everywhere here, is that data is not JSON.
func (d *decoder) object(l *layout, v reflect.Value) error {
	if _, err := d.dec.ReadToken(); err != nil {
		return err
	}
	if d.dec.StackDepth() > maxDepth {
		return errDepth
	}
	depth, empty := len(d.path), true
	for d.dec.PeekKind() == '"' {
		token, err := d.dec.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		if l.resource && name == "resourceType" {
			if err := d.dec.SkipValue(); err != nil {
				return err
			}
			continue
		}
		empty = false
		start := d.start()
		fits, err := d.member(l, v, name)
		d.path = d.path[:depth]
		if err != nil {
			return err
		}
		if !fits {
			kept := keptOf(v)
			if kept.Unknown == nil {
				kept.Unknown = map[string]json.RawMessage{}
			}
			kept.Unknown[name] = bytes.Clone(d.data[start:d.dec.InputOffset()])
		}
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return err
	}
	if empty && !l.resource {
		d.issue("error", "structure", "must not be empty: leave it out")
	}
	d.whole(l, v)
	return nil
}

func keptOf(v reflect.Value) *Kept {
	kept := v.Field(0).Addr().Interface().(**Kept)
	if *kept == nil {
		*kept = &Kept{}
	}
	return *kept
}

// whole looks at what only the whole object shows: what is missing, and nulls in lists.
func (d *decoder) whole(l *layout, v reflect.Value) {
	var kept Kept
	if k := v.Field(0).Interface().(*Kept); k != nil {
		kept = *k
	}
	has := func(f field) bool {
		if !v.Field(f.index).IsZero() {
			return true
		}
		if f.kind != "choice" {
			return kept.Primitives[f.name] != nil || kept.Unknown[f.name] != nil
		}
		for name, n := range l.names {
			if l.fields[n].index == f.index && (kept.Primitives[name] != nil || kept.Unknown[name] != nil) {
				return true
			}
		}
		return false
	}
	depth := len(d.path)
	for _, n := range l.required {
		if f := l.fields[n]; !has(f) {
			d.path = append(append(d.path, '.'), f.name...)
			d.issue("error", "required", "must be there")
			d.path = d.path[:depth]
		}
	}
	for _, f := range l.fields {
		if !f.list || f.kind == "" || f.kind == "Resource" {
			continue
		}
		items, extensions := v.Field(f.index).Interface().([]string), kept.Primitives[f.name]
		d.path = append(append(d.path, '.'), f.name...)
		if extensions != nil && len(items) > 0 && len(items) != len(extensions) {
			d.issue("error", "structure", "_"+f.name+" must have as many items, null where there is nothing to say")
		}
		for i, item := range items {
			if item == "" && (i >= len(extensions) || extensions[i].isZero()) {
				d.issue("error", "structure", "item "+strconv.Itoa(i)+" is null and has no extension that says why")
			}
		}
		d.path = d.path[:depth]
	}
}

func (e *Element) isZero() bool { return e.Kept == nil && e.ID == "" && e.Extension == nil }

// member reads the value of one member. It does not fit when the struct has no
// place for it; then it has been read to its end, and an issue says why.
func (d *decoder) member(l *layout, v reflect.Value, name string) (fits bool, err error) {
	base, extends := strings.CutPrefix(name, "_")
	n, known := l.names[base]
	if !known {
		if plain(name) {
			d.path = append(append(d.path, '.'), name...)
		}
		return d.misfit("R4 has no such element here")
	}
	f := &l.fields[n]
	d.path = append(append(d.path, '.'), f.name...)
	c := choice{kind: f.kind, below: f.below}
	if f.kind == "choice" {
		c = d.choices[base[len(f.name):]]
	}
	switch target := v.Field(f.index); {
	case extends && (c.below != nil || c.kind == "Resource"):
		return d.misfit("only a primitive element has a member that begins with _")
	case extends:
		return d.extension(v, f, base)
	case f.list:
		return d.list(f, target)
	case f.kind == "choice":
		if !target.IsNil() {
			return d.misfit("only one type of " + f.name + "[x] may be there")
		}
		made := reflect.New(c.typ).Elem()
		if c.below != nil {
			made.Set(reflect.New(c.typ.Elem()))
			fits, err = d.one(f, c.kind, c.below, made.Elem())
		} else {
			fits, err = d.one(f, c.kind, nil, made)
		}
		if fits && err == nil {
			target.Set(made)
		}
		return fits, err
	case f.below != nil:
		made := reflect.New(target.Type().Elem())
		if fits, err = d.one(f, "", f.below, made.Elem()); fits && err == nil {
			target.Set(made)
		}
		return fits, err
	default:
		return d.one(f, f.kind, nil, target)
	}
}

// misfit says what is wrong with the value that comes next, and passes over it.
func (d *decoder) misfit(text string) (bool, error) {
	d.issue("error", "structure", text)
	return false, d.dec.SkipValue()
}

// list reads a list. One item that does not fit, and the whole list is kept as it came.
func (d *decoder) list(f *field, target reflect.Value) (bool, error) {
	if d.dec.PeekKind() != '[' {
		return d.misfit("must be a list")
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return false, err
	}
	all, n, depth := true, 0, len(d.path)
	for ; ; n++ {
		if kind := d.dec.PeekKind(); kind == ']' || kind == 0 {
			break
		}
		d.path = append(append(append(d.path[:depth], '['), strconv.Itoa(n)...), ']')
		if n == target.Cap() {
			target.Grow(1)
		}
		target.SetLen(n + 1)
		fits, err := true, error(nil)
		if f.kind != "" && f.kind != "Resource" && d.dec.PeekKind() == 'n' {
			err = d.dec.SkipValue() // a place for an extension
		} else {
			fits, err = d.one(f, f.kind, f.below, target.Index(n))
		}
		if err != nil {
			return false, err
		}
		all = all && fits
	}
	d.path = d.path[:depth]
	if _, err := d.dec.ReadToken(); err != nil {
		return false, err
	}
	if n == 0 {
		d.issue("error", "structure", "a list must not be empty: leave it out")
	}
	if n == 0 || !all {
		target.SetZero()
		return false, nil
	}
	return true, nil
}

// one reads one value into target.
func (d *decoder) one(f *field, kind string, below *layout, target reflect.Value) (bool, error) {
	got := d.dec.PeekKind()
	switch {
	case below != nil:
		if got != '{' {
			return d.misfit("must be an object, is " + kindName(got))
		}
		if err := d.object(below, target); err != nil {
			return false, err
		}
		d.coded(f, target.Addr().Interface())
		return true, nil
	case kind == "Resource":
		if got != '{' {
			return d.misfit("must be a resource, is " + kindName(got))
		}
		r, err := d.resource()
		if r == nil {
			if err == nil {
				d.issue("error", "required", "resourceType must be there, and a string")
			}
			return false, err
		}
		target.Set(reflect.ValueOf(r))
		return true, nil
	case kind == "boolean":
		if got != 't' && got != 'f' {
			return d.misfit("must be true or false, is " + kindName(got))
		}
		_, err := d.dec.ReadToken()
		if target.Kind() == reflect.Pointer {
			target.Set(reflect.ValueOf(new(got == 't')))
		} else {
			target.SetBool(got == 't')
		}
		return true, err
	case kind == "decimal":
		if got != '0' {
			return d.misfit("must be a number, is " + kindName(got))
		}
		raw, err := d.dec.ReadValue()
		target.SetString(string(raw))
		return true, err
	case kind == "integer" || kind == "positiveInt" || kind == "unsignedInt":
		if got != '0' {
			return d.misfit("must be a number, is " + kindName(got))
		}
		raw, err := d.dec.ReadValue()
		if err != nil {
			return false, err
		}
		n, err := strconv.ParseInt(string(raw), 10, 32)
		if err != nil || strconv.FormatInt(n, 10) != string(raw) {
			d.issue("error", "value", "must be a whole number of 32 bits, without fraction or exponent")
			return false, nil
		}
		if kind == "positiveInt" && n < 1 || kind == "unsignedInt" && n < 0 {
			d.issue("error", "value", "must be a "+kind+", is too small")
		}
		if target.Kind() == reflect.Pointer {
			target.Set(reflect.ValueOf(new(int32(n))))
		} else {
			target.SetInt(n)
		}
		return true, nil
	}
	if got != '"' {
		return d.misfit("must be a string, is " + kindName(got))
	}
	token, err := d.dec.ReadToken()
	if err != nil {
		return false, err
	}
	text := token.String()
	if text == "" {
		d.issue("error", "value", "must not be empty: leave it out")
		return false, nil
	}
	if wrong := malformed(kind, text); wrong != "" {
		d.issue("error", "value", wrong)
	} else if f.codes && !oneOf(f.set, "", text) {
		d.issue("error", "code-invalid", "is not a code of the required value set")
	}
	target.SetString(text)
	return true, nil
}

// extension reads id and extensions of a primitive element: the member "_name".
func (d *decoder) extension(v reflect.Value, f *field, name string) (bool, error) {
	element := d.layouts[reflect.TypeFor[Element]()]
	var read []Element
	one := func() (bool, error) {
		var e Element
		if got := d.dec.PeekKind(); got != '{' {
			return d.misfit("must be an object with id or extension, is " + kindName(got))
		}
		err := d.object(element, reflect.ValueOf(&e).Elem())
		read = append(read, e)
		return !e.isZero(), err
	}
	all, err := true, error(nil)
	if !f.list {
		all, err = one()
	} else {
		if d.dec.PeekKind() != '[' {
			return d.misfit("must be a list, as the element is")
		}
		if _, err := d.dec.ReadToken(); err != nil {
			return false, err
		}
		for depth := len(d.path); ; {
			kind := d.dec.PeekKind()
			if kind == ']' || kind == 0 {
				d.path = d.path[:depth]
				break
			}
			d.path = append(append(append(d.path[:depth], '['), strconv.Itoa(len(read))...), ']')
			if kind == 'n' {
				read = append(read, Element{})
				if err := d.dec.SkipValue(); err != nil {
					return false, err
				}
				continue
			}
			fits, err := one()
			if err != nil {
				return false, err
			}
			all = all && fits
		}
		if _, err := d.dec.ReadToken(); err != nil {
			return false, err
		}
		if len(read) == 0 {
			d.issue("error", "structure", "a list must not be empty: leave it out")
			return false, nil
		}
	}
	if err != nil || !all {
		return false, err
	}
	kept := keptOf(v)
	if kept.Primitives == nil {
		kept.Primitives = map[string][]Element{}
	}
	kept.Primitives[name] = read
	return true, nil
}

// coded looks whether a Coding or CodeableConcept is of its required value set.
func (d *decoder) coded(f *field, value any) {
	if f.set == nil {
		return
	}
	var codings []Coding
	switch c := value.(type) {
	case *Coding:
		codings = []Coding{*c}
	case *CodeableConcept:
		codings = c.Coding
	default:
		return
	}
	for _, c := range codings {
		if oneOf(f.set, c.System, c.Code) {
			return
		}
	}
	d.issue("error", "code-invalid", "has no code of the required value set")
}

func oneOf(set []string, system, code string) bool {
	for i := 0; i+1 < len(set); i += 2 {
		if (system == "" || system == set[i]) && plain(code) && strings.Contains(set[i+1], " "+code+" ") {
			return true
		}
	}
	return len(set) == 0
}

var errDepth = errors.New("too deep")

// syntax says why something is no JSON, without a byte of it.
func syntax(err error) string {
	var where *jsontext.SyntacticError
	switch {
	case errors.Is(err, errDepth):
		return fmt.Sprintf("objects and lists nest more than %d deep", maxDepth)
	case errors.Is(err, jsontext.ErrDuplicateName) && errors.As(err, &where):
		return fmt.Sprintf("not JSON at byte %d: a member is there twice", where.ByteOffset)
	case errors.As(err, &where):
		return fmt.Sprintf("not JSON at byte %d", where.ByteOffset)
	}
	return "not JSON: it ends too early"
}

func kindName(k jsontext.Kind) string {
	return map[jsontext.Kind]string{'n': "null", 't': "a boolean", 'f': "a boolean", '"': "a string", '0': "a number", '{': "an object", '[': "a list"}[k]
}
