// Package edge takes what other systems send: HL7 v2 messages over MLLP.
package edge
