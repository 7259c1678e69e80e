// A client of the gateway in another language: it reads the .proto files as they lie in the
// repository and prints what it receives, one JSON object a line. tests/test_node_client.py
// runs it.
//
//   node client.js generate|cancel|error HOST:PORT PROTO_DIR...
//
// PROTO_DIR: folders with this project's and with google.rpc's .proto files.
'use strict';

const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const DEADLINE_S = 60;
const FILES = [
  'ssjf/gateway/v1/gateway.proto',
  'google/rpc/status.proto',
  'google/rpc/error_details.proto',
];

const GREEDY = { prompt: 'Count from one to ten.', sampling: { temperature: 0, max_tokens: 16 } };
const REQUESTS = {
  generate: GREEDY,
  // Long enough to be running still when the cancellation arrives.
  cancel: { ...GREEDY, sampling: { temperature: 0, max_tokens: 512, ignore_eos: true } },
  // Two rules broken at once.
  error: { prompt: 'Hello', sampling: { temperature: -1, max_tokens: 0 } },
};

function print(object) {
  process.stdout.write(`${JSON.stringify(object)}\n`);
}

// The google.rpc details of a failed call, each with its message's name under "@type".
function details(definitions, error) {
  const [encoded] = error.metadata.get('grpc-status-details-bin');
  if (encoded === undefined) return [];
  return definitions['google.rpc.Status'].deserialize(encoded).details.map((any) => {
    const name = any.type_url.split('/').pop();
    return { '@type': name, ...definitions[name].deserialize(any.value) };
  });
}

function main(mode, address, includeDirs) {
  const definitions = protoLoader.loadSync(FILES, {
    includeDirs,
    keepCase: true,
    enums: String,
    longs: Number,
    oneofs: true,
    defaults: true,
  });
  const { GatewayService } = grpc.loadPackageDefinition(definitions).ssjf.gateway.v1;
  const client = new GatewayService(address, grpc.credentials.createInsecure());
  const call = client.Generate(REQUESTS[mode], { deadline: Date.now() + DEADLINE_S * 1000 });
  call.on('data', (response) => {
    print({ [response.event]: response[response.event] });
    if (mode === 'cancel' && response.event === 'delta') call.cancel();
  });
  call.on('error', (error) => {
    print({ status: grpc.status[error.code], details: details(definitions, error) });
    client.close();
  });
  call.on('end', () => client.close());
  call.on('status', (status) => {
    if (status.code === grpc.status.OK) print({ status: 'OK' });
  });
}

const [mode, address, ...includeDirs] = process.argv.slice(2);
if (!(mode in REQUESTS) || !address || includeDirs.length === 0) {
  console.error('usage: node client.js generate|cancel|error HOST:PORT PROTO_DIR...');
  process.exit(2);
}
main(mode, address, includeDirs);
