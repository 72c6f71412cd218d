// Package referral keeps the cancer pathway with its clocks, the referrals of
// every kind on it, and the directory of services and charities they go to.
//
// Three kinds of stream, one file each, in the order state, fold, decisions:
//
//	pathway.go     pathway-<pathway id>   the facts from which the clocks are read
//	referral.go    referral-<pathway id>  every referral of the pathway, and offers of services
//	directory.go   service-<service id>   one entry of the directory
//
// An invariant inside one stream holds by the append. What spans streams is asked
// for by react.go, in commands whose ids derive from the event that asked, so that
// an event heard twice does its work once: a diagnosis leads to an offer of
// charities, a rerouting to the onward pathways.
package referral
