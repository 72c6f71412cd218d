package edge

import (
	"encoding/json"
	"net/http"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/edge/v1"
)

// errorCodes is the code system of BaRS for its errors.
const errorCodes = "https://fhir.nhs.uk/Codesystem/http-error-codes"

// problem is how a reason is told over HTTP: the status, the IssueType of R4, and
// the code of BaRS.
type problem struct {
	status      int
	issue, bars string
}

// problems by reason; a reason that is not here is 422, processing.
var problems = map[string]problem{
	"edge.fhir.unreadable":          {http.StatusBadRequest, "structure", "REC_BAD_REQUEST"},
	"edge.fhir.type_missing":        {http.StatusBadRequest, "structure", "REC_BAD_REQUEST"},
	"edge.fhir.type_unknown":        {http.StatusBadRequest, "not-supported", "REC_BAD_REQUEST"},
	"edge.fhir.xml":                 {http.StatusUnsupportedMediaType, "not-supported", "REC_UNSUPPORTED_MEDIA_TYPE"},
	"edge.fhir.stu3":                {http.StatusUnprocessableEntity, "not-supported", "REC_UNPROCESSABLE_ENTITY"},
	"edge.field.required":           {http.StatusBadRequest, "required", "REC_BAD_REQUEST"},
	"edge.field.invalid":            {http.StatusBadRequest, "value", "REC_BAD_REQUEST"},
	"person.nhs_number.invalid":     {http.StatusBadRequest, "value", "REC_BAD_REQUEST"},
	"edge.control_id.reused":        {http.StatusConflict, "duplicate", "REC_CONFLICT"},
	"appointment.stale":             {http.StatusConflict, "conflict", "REC_CONFLICT"},
	"referral.stale":                {http.StatusConflict, "conflict", "REC_CONFLICT"},
	"edge.bars.event_unknown":       {http.StatusBadRequest, "not-supported", "REC_BAD_REQUEST"},
	"edge.bars.version_unsupported": {http.StatusUnprocessableEntity, "not-supported", "REC_UNPROCESSABLE_ENTITY"},
	"edge.bars.not_found":           {http.StatusNotFound, "not-found", "REC_NOT_FOUND"},
	"edge.bars.conflict":            {http.StatusConflict, "conflict", "REC_CONFLICT"},
	"edge.bars.duplicate":           {http.StatusConflict, "duplicate", "REC_CONFLICT"},
	"edge.bars.use_case":            {http.StatusUnprocessableEntity, "not-supported", "REC_UNPROCESSABLE_ENTITY"},
	"appointment.slot.taken":        {http.StatusConflict, "conflict", "REC_CONFLICT"},
}

func problemOf(code string) problem {
	if p, ok := problems[code]; ok {
		return p
	}
	return problem{http.StatusUnprocessableEntity, "processing", "REC_UNPROCESSABLE_ENTITY"}
}

// issue is one issue of an OperationOutcome. It names an element, and never a value.
func issue(severity string, p problem, code, element, text string) map[string]any {
	coding := []any{}
	if p.bars != "" {
		coding = append(coding, map[string]any{"system": errorCodes, "code": p.bars})
	}
	out := map[string]any{"severity": severity, "code": p.issue, "diagnostics": strings.Trim(code+": "+text, ": ")}
	details := map[string]any{"text": text}
	if text == "" {
		details["text"] = code
	}
	if len(coding) > 0 {
		details["coding"] = coding
	}
	out["details"] = details
	if element != "" {
		out["expression"] = []any{element}
	}
	return out
}

func operationOutcome(id string, issues ...map[string]any) []byte {
	out := map[string]any{"resourceType": "OperationOutcome", "issue": issues}
	if id != "" {
		out["id"] = id
	}
	body, err := json.Marshal(out)
	if err != nil {
		panic(err) // cannot be: strings and maps of them
	}
	return body
}

// reply is what the sender of a document is told, made from what is recorded.
func (d *document) reply(id string, outcome proto.Message) (int, []byte) {
	switch o := outcome.(type) {
	case *pb.MessageRefused:
		p := problemOf(o.Reason.Code)
		return p.status, operationOutcome(id, issue("error", p, o.Reason.Code, o.Reason.Field, o.Reason.Text))
	case *pb.MessageParked:
		return http.StatusAccepted, operationOutcome(id, issue("warning", problem{issue: "incomplete"}, o.Reason.Code, o.Reason.Field, "kept for a person to look at: "+o.Reason.Text))
	case *pb.MessageApplied:
		if body := d.response(id, o); body != nil {
			return http.StatusOK, body
		}
		issues := []map[string]any{issue("information", problem{issue: "informational"}, "edge.applied", "", "the document was taken")}
		for _, k := range o.Kept {
			issues = append(issues, issue("information", problem{issue: "informational"}, k.Code, k.Type, "kept with the document, and made into no command"))
		}
		for _, remark := range d.remarks() {
			issues = append(issues, issue("warning", problem{issue: "structure"}, notR4, remark.element, remark.text))
		}
		return http.StatusOK, operationOutcome(id, issues...)
	}
	return http.StatusServiceUnavailable, operationOutcome(id, issue("error", problem{issue: "transient"}, "edge.no_outcome", "", "there is no outcome yet: send it again"))
}
