package edge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/edge/v1"
	"waymark/services/edge/fhir"
	"waymark/services/kit/fault"
)

// fhirJSON is the content type of a document.
const fhirJSON = "application/fhir+json"

// document is a FHIR R4 resource in JSON on its way in: a Bundle of any kind, or
// one resource. It is read as a tree, not into a model: what is mapped is looked
// for, everything else is left alone, counted, and kept with the raw bytes.
type document struct {
	raw                  []byte
	organisation, source string // who sent it, and from which system

	root   node
	unread error // why root is empty: a *stop
	kind   string
	// The resources, each with where it stands; for a Bundle those of its entries.
	resources []resource
	byRef     map[string]int // full URL, and Type/id, to index in resources
}

// resource is one resource of a document.
type resource struct {
	node
	kind    string // resourceType
	url     string // fullUrl of its entry
	deleted bool   // its entry asks for a DELETE
}

// node is a value of the tree and its FHIRPath.
type node struct {
	path string
	v    any
}

func (n node) get(name string) node {
	m, _ := n.v.(map[string]any)
	return node{n.path + "." + name, m[name]}
}

// at follows names, each the first item where it is a list.
func (n node) at(names ...string) node {
	for _, name := range names {
		n = n.get(name)
		if list, ok := n.v.([]any); ok {
			n = node{n.path + "[0]", nil}
			if len(list) > 0 {
				n.v = list[0]
			}
		}
	}
	return n
}

// all are the items of a list; a single value counts as a list of one.
func (n node) all(name string) (items []node) {
	n = n.get(name)
	switch v := n.v.(type) {
	case nil:
	case []any:
		for i, item := range v {
			items = append(items, node{fmt.Sprintf("%s[%d]", n.path, i), item})
		}
	default:
		items = []node{n}
	}
	return items
}

// text is a string, number or boolean as it was written; "" for anything else.
func (n node) text() string {
	switch v := n.v.(type) {
	case string:
		return strings.TrimSpace(v)
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

func (n node) str(names ...string) string { return n.at(names...).text() }

// coding is one code with its system.
type coding struct {
	system, code string
	node
}

// codings of a CodeableConcept, a Coding or a list of either.
func (n node) codings(name string) (found []coding) {
	for _, concept := range n.all(name) {
		inner := concept.all("coding")
		if inner == nil {
			inner = []node{concept}
		}
		for _, c := range inner {
			if code := c.str("code"); code != "" {
				found = append(found, coding{c.str("system"), code, c})
			}
		}
	}
	return found
}

// extension with a URL that ends so, the zero node when there is none.
func (n node) extension(suffix string) node {
	for _, e := range n.all("extension") {
		if strings.HasSuffix(e.str("url"), suffix) {
			return e
		}
	}
	return node{path: n.path + ".extension"}
}

// maxDepth bounds how deep values may be nested.
const maxDepth = 60

// readDocument reads what is there; faults are told when the document is applied.
func readDocument(raw []byte, organisation, source string) *document {
	d := &document{raw: raw, organisation: organisation, source: source, byRef: map[string]int{}}
	trimmed := bytes.TrimSpace(bytes.TrimPrefix(raw, []byte("\ufeff")))
	if bytes.HasPrefix(trimmed, []byte("<")) {
		d.unread = refuseKind("edge.fhir.xml", "", "XML is not taken: send the same resource as JSON, application/fhir+json")
		return d
	}
	dec := json.NewDecoder(bytes.NewReader(trimmed))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		d.unread = refuse("edge.fhir.unreadable", "", "this is no JSON: "+jsonFault(err))
		return d
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		d.unread = refuse("edge.fhir.unreadable", "", "more follows after the resource: send one resource, or NDJSON line by line")
		return d
	}
	root, ok := v.(map[string]any)
	if !ok || depth(v, 0) > maxDepth {
		d.unread = refuse("edge.fhir.unreadable", "", "a FHIR resource is a JSON object, nested at most 60 deep")
		return d
	}
	d.root = node{v: root}
	d.kind = d.root.str("resourceType")
	if d.kind == "" {
		d.unread = refuse("edge.fhir.type_missing", "resourceType", "the resourceType is missing: this is no FHIR resource")
		return d
	}
	if !knownTypes[d.kind] && !stu3Types[d.kind] {
		d.unread = refuseKind("edge.fhir.type_unknown", "resourceType", "FHIR R4 has no resource of this type")
		d.kind = "unknown"
		return d
	}
	d.root.path = d.kind
	if d.kind != "Bundle" {
		d.add(d.root, "", false)
		return d
	}
	for _, e := range d.root.all("entry") {
		if r := e.get("resource"); r.v != nil {
			d.add(r, e.str("fullUrl"), e.str("request", "method") == "DELETE")
		}
	}
	return d
}

func (d *document) add(n node, url string, deleted bool) {
	r := resource{node: n, kind: n.str("resourceType"), url: url, deleted: deleted}
	if !knownTypes[r.kind] && !stu3Types[r.kind] {
		r.kind = "unknown" // it is counted by this name, and no name of a sender's making is shown
	}
	i := len(d.resources)
	d.resources = append(d.resources, r)
	if id := n.str("id"); id != "" {
		d.byRef[r.kind+"/"+id] = i
	}
	if url != "" {
		d.byRef[url] = i
	}
}

func depth(v any, at int) int {
	if at > maxDepth {
		return at
	}
	deepest := at
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			deepest = max(deepest, depth(x, at+1))
		}
	case []any:
		for _, x := range v {
			deepest = max(deepest, depth(x, at+1))
		}
	}
	return deepest
}

// jsonFault says where JSON is broken, without what stands there.
func jsonFault(err error) string {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("at byte %d", syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "it ends too early"
	}
	return "it cannot be read"
}

// follow returns the resource that a Reference means, false when the document
// does not have it.
func (d *document) follow(ref node) (resource, bool) {
	target := ref.str("reference")
	if target == "" {
		return resource{}, false
	}
	if i, ok := d.byRef[target]; ok {
		return d.resources[i], true
	}
	// An absolute URL, or a version: what counts is Type/id.
	target, _, _ = strings.Cut(target, "/_history/")
	if parts := strings.Split(target, "/"); len(parts) > 2 {
		target = strings.Join(parts[len(parts)-2:], "/")
	}
	if i, ok := d.byRef[target]; ok {
		return d.resources[i], true
	}
	return resource{}, false
}

// message is the MessageHeader of a message Bundle.
func (d *document) message() (resource, bool) {
	if d.kind != "Bundle" || d.root.str("type") != "message" {
		return resource{}, false
	}
	for _, r := range d.resources {
		if r.kind == "MessageHeader" {
			return r, true
		}
	}
	return resource{}, false
}

// name of a message is its Bundle's id, or its header's. Other documents have
// none that a sender keeps from one to the next: their bytes are their name.
func (d *document) name() (string, string) {
	if header, ok := d.message(); ok {
		for _, n := range []node{d.root.get("id"), header.get("id")} {
			if n.text() != "" {
				return "fhir message\x00" + d.organisation + "\x00" + d.source + "\x00" + n.text(), n.path
			}
		}
	}
	return "fhir\x00" + d.organisation + "\x00" + d.source + "\x00" + string(d.raw), "Bundle.id"
}

// digest of a message leaves out when it was sent, which a repeat may renew.
// reusesNames is false: the id of a message Bundle is a UUID.
func (d *document) reusesNames() bool { return false }

func (d *document) digest() [sha256.Size]byte {
	if _, ok := d.message(); !ok {
		return sha256.Sum256(d.raw)
	}
	root := mapsClone(d.root.v)
	delete(root, "timestamp")
	meta := mapsClone(root["meta"])
	delete(meta, "lastUpdated")
	root["meta"] = meta
	canonical, err := json.Marshal(root)
	if err != nil {
		return sha256.Sum256(d.raw)
	}
	return sha256.Sum256(canonical)
}

func mapsClone(v any) map[string]any {
	out := map[string]any{}
	m, _ := v.(map[string]any)
	for k, x := range m {
		out[k] = x
	}
	return out
}

func (d *document) header() *pb.MessageReceived {
	kind := d.kind
	if kind == "" {
		kind = "unreadable"
	}
	id := d.root.str("id")
	if kind == "Bundle" {
		kind += "/" + coded(d.root.str("type"))
		if h, ok := d.message(); ok {
			if event := h.codings("eventCoding"); len(event) > 0 {
				kind += "/" + coded(event[0].code)
			}
			if id == "" {
				id = h.str("id")
			}
		}
	}
	version := "4.0.1"
	if v := d.root.str("meta", "versionId"); v != "" && d.kind == "Bundle" {
		version = coded(v)
	}
	return &pb.MessageReceived{
		Application: coded(d.source), Facility: coded(d.organisation), ControlId: coded(id),
		Type: kind, Version: version, ContentType: fhirJSON,
	}
}

func (d *document) sender() (string, string) {
	return d.organisation, "fhir/" + d.source[:min(len(d.source), 40)]
}

func (d *document) answer(id string, outcome proto.Message) []byte {
	_, body := d.reply(id, outcome)
	return body
}

// fields lists every value with its FHIRPath.
func (d *document) fields() ([]*pb.Field, error) {
	var out []*pb.Field
	var walk func(n node, segment int)
	walk = func(n node, segment int) {
		if len(out) >= maxFields {
			return
		}
		switch v := n.v.(type) {
		case map[string]any:
			names := make([]string, 0, len(v))
			for name := range v {
				names = append(names, name)
			}
			slices.Sort(names)
			for _, name := range names {
				walk(n.get(name), segment)
			}
		case []any:
			for i, item := range v {
				walk(node{fmt.Sprintf("%s[%d]", n.path, i), item}, segment)
			}
		default:
			if text := n.text(); text != "" {
				out = append(out, &pb.Field{Path: n.path, Value: text, Segment: int32(segment)})
			}
		}
	}
	if d.unread != nil {
		var why *stop
		errors.As(d.unread, &why)
		return nil, errors.New(why.reason.Text)
	}
	for i, r := range d.resources {
		walk(r.node, i+1)
	}
	return out, nil
}

// corrected puts text in the place of text.
func (d *document) corrected(corrections []*pb.Correction) ([]byte, error) {
	if d.unread != nil {
		return nil, fault.Refused("edge.redrive.unreadable", "the document cannot be read, so no element can be corrected")
	}
	for _, c := range corrections {
		if !set(d.root.v, strings.TrimPrefix(c.Path, d.root.path+"."), c.Value) {
			return nil, fault.Invalid("edge.redrive.path", "corrections.path", "a path looks like Bundle.entry[1].resource.birthDate, and the element must be there and be text")
		}
	}
	return json.Marshal(d.root.v)
}

// set puts a string where one is; path is relative to v.
func set(v any, path, value string) bool {
	name, rest, more := strings.Cut(path, ".")
	name, index, listed := strings.Cut(name, "[")
	m, ok := v.(map[string]any)
	if !ok {
		return false
	}
	if !listed {
		if more {
			return set(m[name], rest, value)
		}
		if _, ok := m[name].(string); ok {
			m[name] = value
			return true
		}
		return false
	}
	i, err := strconv.Atoi(strings.TrimSuffix(index, "]"))
	list, _ := m[name].([]any)
	if err != nil || i < 0 || i >= len(list) {
		return false
	}
	if more {
		return set(list[i], rest, value)
	}
	if _, ok := list[i].(string); ok {
		list[i] = value
		return true
	}
	return false
}

// apply refuses what cannot be read, then does what is mapped.
func (d *document) apply(ctx context.Context, w *work) error {
	if d.unread != nil {
		return d.unread
	}
	if err := d.r4(); err != nil {
		return err
	}
	if err := w.waits(); err != nil {
		return err
	}
	return d.process(ctx, w)
}

// r4 refuses STU3 and older where it can be told.
func (d *document) r4() error {
	for _, r := range append([]resource{{node: d.root, kind: d.kind}}, d.resources...) {
		if stu3Types[r.kind] {
			return refuseKind("edge.fhir.stu3", r.get("resourceType").path, "FHIR STU3 has this resource, R4 does not: send R4 (4.0.1)")
		}
		for _, p := range r.get("meta").all("profile") {
			if text := p.text(); strings.Contains(text, "/STU3/") || strings.Contains(text, "/stu3/") || strings.HasPrefix(text, "https://fhir.hl7.org.uk/STU3") {
				return refuseKind("edge.fhir.stu3", p.path, "the profile is one of FHIR STU3: send R4 (4.0.1)")
			}
		}
	}
	return nil
}

// maxRemarks bounds how many remarks there are about one document.
const maxRemarks = 50

// remark is an element of a resource that is mapped and is not R4.
type remark struct {
	kind, element, text string
}

// remarks says what of the resources that are mapped is not R4: such an element is
// named and kept, and no reason to refuse the rest.
func (d *document) remarks() (found []remark) {
	for _, r := range d.resources {
		if _, mapped := resourceKinds[r.kind]; !mapped && r.kind != "Patient" {
			continue
		}
		raw, err := json.Marshal(r.v)
		if err != nil {
			continue // cannot be: it was read from JSON
		}
		_, issues := fhir.Decode(raw)
		for _, i := range issues {
			if (i.Severity == "error" || i.Severity == "fatal") && len(found) < maxRemarks {
				found = append(found, remark{r.kind, r.path + strings.TrimPrefix(i.Expression, r.kind), i.Text})
			}
		}
	}
	return found
}

// words makes a set of the words of a text.
func words(text string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(text) {
		set[w] = true
	}
	return set
}

// stu3Types are resources that STU3 or DSTU2 has and R4 does not.
var stu3Types = words(`BodySite ConditionDSTU2 Conformance DataElement DeviceComponent DeviceUseRequest DiagnosticOrder
EligibilityRequest EligibilityResponse ExpansionProfile ImagingManifest ImagingObjectSelection MedicationOrder Order OrderResponse
ProcedureRequest ProcessRequest ProcessResponse ReferralRequest Sequence ServiceDefinition`)

// knownTypes are the resources of FHIR R4.
var knownTypes = words(`Account ActivityDefinition AdverseEvent AllergyIntolerance Appointment AppointmentResponse AuditEvent Basic Binary
BiologicallyDerivedProduct BodyStructure Bundle CapabilityStatement CarePlan CareTeam CatalogEntry ChargeItem ChargeItemDefinition Claim
ClaimResponse ClinicalImpression CodeSystem Communication CommunicationRequest CompartmentDefinition Composition ConceptMap Condition
Consent Contract Coverage CoverageEligibilityRequest CoverageEligibilityResponse DetectedIssue Device DeviceDefinition DeviceMetric
DeviceRequest DeviceUseStatement DiagnosticReport DocumentManifest DocumentReference EffectEvidenceSynthesis Encounter Endpoint
EnrollmentRequest EnrollmentResponse EpisodeOfCare EventDefinition Evidence EvidenceVariable ExampleScenario ExplanationOfBenefit
FamilyMemberHistory Flag Goal GraphDefinition Group GuidanceResponse HealthcareService ImagingStudy Immunization ImmunizationEvaluation
ImmunizationRecommendation ImplementationGuide InsurancePlan Invoice Library Linkage List Location Measure MeasureReport Media Medication
MedicationAdministration MedicationDispense MedicationKnowledge MedicationRequest MedicationStatement MedicinalProduct
MedicinalProductAuthorization MedicinalProductContraindication MedicinalProductIndication MedicinalProductIngredient
MedicinalProductInteraction MedicinalProductManufactured MedicinalProductPackaged MedicinalProductPharmaceutical
MedicinalProductUndesirableEffect MessageDefinition MessageHeader MolecularSequence NamingSystem NutritionOrder Observation
ObservationDefinition OperationDefinition OperationOutcome Organization OrganizationAffiliation Parameters Patient PaymentNotice
PaymentReconciliation Person PlanDefinition Practitioner PractitionerRole Procedure Provenance Questionnaire QuestionnaireResponse
RelatedPerson RequestGroup ResearchDefinition ResearchElementDefinition ResearchStudy ResearchSubject RiskAssessment
RiskEvidenceSynthesis Schedule SearchParameter ServiceRequest Slot Specimen SpecimenDefinition StructureDefinition StructureMap
Subscription Substance SubstanceNucleicAcid SubstancePolymer SubstanceProtein SubstanceReferenceInformation SubstanceSourceMaterial
SubstanceSpecification SupplyDelivery SupplyRequest Task TerminologyCapabilities TestReport TestScript ValueSet VerificationResult
VisionPrescription`)
