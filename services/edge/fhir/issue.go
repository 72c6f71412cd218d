package fhir

import (
	"cmp"
	"strconv"
	"strings"
)

// Issue is one thing that is wrong with a resource. It holds no value of the resource.
type Issue struct {
	Severity   string // fatal (nothing could be read), error, warning, information
	Code       string // of the value set issue-type: structure, required, value, code-invalid, ...
	Expression string // FHIRPath of the element, "" when the whole is meant
	Text       string // what R4 says instead
}

// Issues in the order of the document.
type Issues []Issue

// Valid is true when nothing is wrong; what was not looked at may still be.
func (is Issues) Valid() bool {
	for _, i := range is {
		if i.Severity == "error" || i.Severity == "fatal" {
			return false
		}
	}
	return true
}

// Error lists the issues, one per line.
func (is Issues) Error() string {
	var b strings.Builder
	for n, i := range is {
		if n > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(cmp.Or(i.Expression, "the resource") + ": " + i.Text)
	}
	return b.String()
}

// Outcome is the OperationOutcome that tells the sender.
func (is Issues) Outcome() *OperationOutcome {
	out := &OperationOutcome{}
	for _, i := range is {
		issue := OperationOutcomeIssue{Severity: i.Severity, Code: i.Code, Diagnostics: i.Text}
		if i.Expression != "" {
			issue.Expression = []string{i.Expression}
		}
		out.Issue = append(out.Issue, issue)
	}
	return out
}

// maxIssues bounds what one resource can make us say: so many faults, and so
// many pieces of information beside them.
const maxIssues = 100

func (d *decoder) issue(severity, code, text string) {
	if severity == "information" {
		if d.remarks++; d.remarks <= maxIssues {
			d.issues = append(d.issues, Issue{severity, code, string(d.path), text})
		}
		return
	}
	switch d.faults++; {
	case d.faults <= maxIssues:
		d.issues = append(d.issues, Issue{severity, code, string(d.path), text})
	case d.faults == maxIssues+1:
		d.issues = append(d.issues, Issue{"error", "too-costly", "", "there is more; the first " + strconv.Itoa(maxIssues) + " faults are listed"})
	}
}
