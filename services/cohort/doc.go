// Package cohort turns whole cohorts of patients into commands of the services.
//
//	synthea.go   reads the CSV of Synthea, one folder a county;
//	             synthea_journey.go makes journeys of it
//	demo.go      draws journeys from published figures, for demonstrations
//	journey.go   what a journey is, whatever it came from
//	steps.go     the commands of a journey, in their order
//	numbers.go   NHS numbers for those who have none, and other derived names
//
// It reads and decides, and sends nothing. Everything is derived from the source
// alone: the same journey gives the same commands with the same ids, however often
// and in whatever company it is read, so that an import can be repeated.
package cohort
