// The Node program of the tests: an HTTP server with a counter, a heap full of objects and a buffer outside of it.
// GET /healthz, and GET /value: {"counter": requests so far, "value": computed from heap and buffer}. PORT, MB.
import { createServer } from 'node:http';

const megabytes = Number(process.env.MB ?? 32);
const port = Number(process.env.PORT ?? 8080);

const buffer = new Uint32Array(megabytes * 1024 * 256);
for (let i = 0, x = 2463534242; i < buffer.length; i++) {
  x ^= x << 13; x ^= x >>> 17; x ^= x << 5; // xorshift32: the same words in every run
  buffer[i] = x;
}
const index = new Map();
for (let i = 0; i < 20_000; i++) index.set(`key-${i}`, { id: i, word: buffer[i] });

let counter = 0;
let ticks = 0; // a timer that must go on in a clone
setInterval(() => { ticks++; }, 50);

function value() {
  let v = index.get('key-7').word;
  const step = Math.max(1, Math.floor(buffer.length / 64));
  for (let i = 0; i < buffer.length; i += step) v ^= buffer[i];
  return v >>> 0;
}

const server = createServer((request, response) => {
  const pages = {
    '/healthz': () => ({ status: 'ok' }),
    '/value': () => ({ counter: ++counter, value: value() }),
    '/ticks': () => ({ ticks }),
  };
  const page = pages[request.url];
  response.writeHead(page ? 200 : 404, { 'content-type': 'application/json', connection: 'close' });
  response.end(`${JSON.stringify(page ? page() : { error: 'no such page' })}\n`);
});
server.listen(port, '0.0.0.0', () => console.log(`ready: ${megabytes} MB, port ${port}`));
