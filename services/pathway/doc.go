// Package pathway is the read side of pathways: what was recorded by the person,
// referral, plan, appointment and care lead services, put together.
//
// There is one fold, from events in log order to a pb.Pathway. GetPathway and
// its like run it over the streams of one pathway, read from the log at that
// moment: as of now, of a position or of a recorded time. The read model runs it
// over the whole log and keeps the views, so that lists need not; the two can be
// compared.
//
// Files: fold*.go take events in, derive.go computes what follows from them,
// history.go reads one pathway, timeline.go and lines.go tell it, model.go keeps the
// views, intake.go takes the log into them on all cores, service.go answers.
//
// Nothing here decides anything or is input to anything.
package pathway
