// The usual alternative, for `make bench`: fastify, ajv with a discriminator, librdkafka; 201 after acks=all.
// It does less than the front door: the same JSON Schemas, but no session id, no Avro, no spool.
import fs from 'node:fs';
import Fastify from 'fastify';
import kafka from '@confluentinc/kafka-javascript';

const { BENCH_SCHEMAS, PIPELINE_KAFKA_BOOTSTRAP } = process.env;
const schemas = JSON.parse(fs.readFileSync(BENCH_SCHEMAS, 'utf8'));

const producer = new kafka.Producer({
  'bootstrap.servers': PIPELINE_KAFKA_BOOTSTRAP,
  acks: -1,
  'enable.idempotence': true,
  'linger.ms': 5, // as the front door's
  'compression.type': 'lz4',
  'message.timeout.ms': 2000,
  dr_cb: true,
});
await new Promise((resolve, reject) => {
  producer.connect({}, (error) => (error ? reject(error) : resolve()));
});
producer.setPollInterval(1);
producer.on('delivery-report', (error, report) => report.opaque(error));

const stored = (key, value) =>
  new Promise((resolve, reject) => {
    const done = (error) => (error ? reject(error) : resolve());
    producer.produce('media.uploads', null, value, key, Date.now(), done);
  });

const app = Fastify({
  logger: false,
  bodyLimit: 4 * 1024 * 1024,
  ajv: { customOptions: { discriminator: true, coerceTypes: false, removeAdditional: false, useDefaults: false } },
});
app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body, done) => {
  request.raw.sent = body;
  try {
    done(null, JSON.parse(body));
  } catch (error) {
    error.statusCode = 400;
    done(error);
  }
});

const item = { type: 'object', discriminator: { propertyName: 'eventType' }, required: ['eventType'], oneOf: schemas };
app.post('/api/v1/downloaded', { schema: { body: { type: 'array', minItems: 1, items: item } } }, async (request, reply) => {
  await stored(request.body[0].params['visitor.marketingCloudUserId'], request.raw.sent);
  return reply.code(201).send();
});

await app.listen({ host: '127.0.0.1', port: 0 });
process.stderr.write(`http://127.0.0.1:${app.server.address().port}\n`);
process.on('SIGTERM', () => process.exit(0));
