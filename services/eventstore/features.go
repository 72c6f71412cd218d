package eventstore

import (
	"context"
	"net"
	"strconv"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// serverVersion is the version of EventStoreDB whose behaviour the node
// follows. Clients want three numbers and nothing else.
const serverVersion = "23.10.0"

const persistentService = "event_store.client.persistent_subscriptions.persistentsubscriptions"

// served lists what the node serves, as clients ask for it. What is not in it
// is not served.
var served = []*serverfeatures.SupportedMethod{
	{ServiceName: "event_store.client.streams.streams", MethodName: "read", Features: []string{"position", "events"}},
	{ServiceName: "event_store.client.streams.streams", MethodName: "append"},
	{ServiceName: "event_store.client.streams.streams", MethodName: "batchappend", Features: []string{"deadline_duration"}},
	{ServiceName: "event_store.client.streams.streams", MethodName: "delete"},
	{ServiceName: "event_store.client.streams.streams", MethodName: "tombstone"},
	{ServiceName: persistentService, MethodName: "create", Features: []string{"stream", "all"}},
	{ServiceName: persistentService, MethodName: "update", Features: []string{"stream", "all"}},
	{ServiceName: persistentService, MethodName: "delete", Features: []string{"stream", "all"}},
	{ServiceName: persistentService, MethodName: "read", Features: []string{"stream", "all"}},
	{ServiceName: persistentService, MethodName: "getinfo", Features: []string{"stream", "all"}},
	{ServiceName: persistentService, MethodName: "replayparked", Features: []string{"stream", "all"}},
	{ServiceName: persistentService, MethodName: "list", Features: []string{"stream", "all"}},
	{ServiceName: persistentService, MethodName: "restartsubsystem"},
	{ServiceName: "event_store.client.gossip.gossip", MethodName: "read"},
	{ServiceName: "event_store.client.server_features.serverfeatures", MethodName: "getsupportedmethods"},
}

type featuresServer struct {
	serverfeatures.UnimplementedServerFeaturesServer
}

func (*featuresServer) GetSupportedMethods(context.Context, *shared.Empty) (*serverfeatures.SupportedMethods, error) {
	return &serverfeatures.SupportedMethods{Methods: served, EventStoreServerVersion: serverVersion}, nil
}

type gossipServer struct {
	gossip.UnimplementedGossipServer
	node *Node
}

// Read answers that this node is alone and leads.
func (g *gossipServer) Read(context.Context, *shared.Empty) (*gossip.ClusterInfo, error) {
	g.node.mu.Lock()
	advertise := g.node.advertise
	g.node.mu.Unlock()
	host, port, err := net.SplitHostPort(advertise)
	if err != nil {
		return nil, status.Error(codes.Internal, "the node's advertised address is not host:port")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, status.Error(codes.Internal, "the node's advertised port is not a number")
	}
	return &gossip.ClusterInfo{Members: []*gossip.MemberInfo{{
		InstanceId:   uuidMessage(eventID(g.node.store.id), false),
		TimeStamp:    ticks(g.node.cfg.Clock()),
		State:        gossip.MemberInfo_Leader,
		IsAlive:      true,
		HttpEndPoint: &gossip.EndPoint{Address: host, Port: uint32(number)},
	}}}, nil
}
