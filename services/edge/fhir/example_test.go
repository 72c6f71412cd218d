package fhir_test

import (
	"fmt"

	"waymark/services/edge/fhir"
)

func Example() {
	body := []byte(`{"resourceType":"Patient","gender":"banana","birthDate":"1961-05-04","_birthDate":{"id":"b"}}`)
	r, issues := fhir.Decode(body) // r is nil when an issue is fatal: no JSON, no resource
	if !issues.Valid() {
		outcome := issues.Outcome() // an OperationOutcome; each issue names its element by FHIRPath
		fmt.Println(outcome.Issue[0].Expression, outcome.Issue[0].Diagnostics)
	}
	switch r := r.(type) {
	case *fhir.Patient:
		fmt.Println(r.BirthDate)
	case *fhir.Bundle:
		for _, e := range r.Entry {
			fmt.Println(e.Resource.ResourceType())
		}
	case *fhir.Other: // a resource of R4 without a struct here, as it came
		fmt.Println(r.Type)
	}

	task := &fhir.Task{
		Status: "requested", Intent: "order",
		Code:  &fhir.CodeableConcept{Coding: []fhir.Coding{{System: "http://example.org", Code: "accept-care-lead"}}},
		Input: []fhir.TaskInput{{Type: &fhir.CodeableConcept{Text: "plan version"}, Value: fhir.PositiveInt(3)}}, // value[x]
	}
	fhir.SetHead(task, "the-id", &fhir.Meta{VersionId: "3"})
	out, err := fhir.Encode(task)
	fmt.Println(string(out), err)
	// Output:
	// [Patient.gender] is not a code of the required value set
	// 1961-05-04
	// {"resourceType":"Task","id":"the-id","meta":{"versionId":"3"},"status":"requested","intent":"order","code":{"coding":[{"system":"http://example.org","code":"accept-care-lead"}]},"input":[{"type":{"text":"plan version"},"valuePositiveInt":3}]} <nil>
}
