// Package plan keeps the Personalised Cancer Plan of a pathway and what goes with
// it. Five states share the one stream plan-<pathway id>, one file each:
//
//	plan.go          the plan: concerns, goals, actions, sections, agreement, versions
//	assessment.go    holistic needs assessments, from due to closed
//	summary.go       end-of-treatment summaries: drafted, approved, issued, delivered
//	surveillance.go  schedules by approved protocols; result.go: results of their tests
//	response.go      patient-reported outcomes: checked, scored, alerted upon
//	timers.go        what is due now; sweep.go looks at each record once a day
//	view.go          the record as queries show it, with what waits for a person
//	react.go         what events of pathways ask for; service.go: the gRPC face
//
// They share a stream so that what spans them is decided at one revision: a high
// emotional score is raised with the answers it came with, a summary is not issued
// to a patient before the results were told. Concerns, protocols and instruments
// are data files, embedded.
package plan
