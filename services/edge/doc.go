// Package edge takes what other systems send: HL7 v2 messages over MLLP, FHIR R4
// documents, and BaRS messages.
//
// Each message is one stream, message-<id>, and the id is a UUIDv5 of the sending
// application, facility and control id. The raw bytes are its first event, before
// anything is done; the outcome is its second: applied, parked for a person to
// look at, or refused. The acknowledgement is made from these two events, so that
// a message that comes again gets the first answer, and is sent after the
// outcome is durable. Ids of the commands derive from the message's: a crash
// anywhere in between is mended by the sender's repeat.
//
// Messages about one patient are applied one after the other. A failure that is
// nobody's answer (a fault of ours) parks the message and holds later messages of
// that patient back, and of no other.
//
//	hl7.go      text to segments and fields, character sets
//	listen.go   the MLLP listener (frames and batches are kit/mllp)
//	message.go  the stream: events, fold, decisions
//	intake.go   one message from its bytes to its acknowledgement
//	apply.go    the kinds of HL7 v2 messages, and those about a person
//	place.go    which person and pathway any other message is about
//	schedule.go, visit.go, result.go, filing.go, refer.go
//	            bookings, visits, results, documents, referrals
//	batch.go    the envelope of a batch, and its answer
//	ack.go      acknowledgements
//	index.go    the read model: lists, who is who, who waits for whom
//	service.go  the gRPC face
//	v2.go       HL7 v2 as the intake sees it
//
// FHIR R4 out, made of what the services say at a position of the log:
//
//	fhir.go           the HTTP server: read, vread, history
//	fhir_kinds.go     the table of types and their search parameters
//	fhir_search.go    search; the CapabilityStatement
//	fhir_records.go   the index: whose a thing is, and when its streams changed
//	fhir_snapshot.go  what the services are asked
//	fhir_out.go       what resources are made of it; fhir_plan.go: those of the plan
//
// FHIR R4 documents in go the same way as HL7 v2:
//
//	document.go      a document as the intake sees it: a tree with FHIRPaths
//	intake_fhir.go   what is read of it: patients, references, times
//	resource_fhir.go the commands that each kind of resource makes
//	cancers.go       which codes mean cancer
//	bars.go          BaRS messages, and what their senders are told
//	bars_refer.go    those about a referral
//	bars_http.go     BaRS over HTTP
//	nhsapp.go        what the NHS App is shown
//	answer_fhir.go   OperationOutcomes
package edge
