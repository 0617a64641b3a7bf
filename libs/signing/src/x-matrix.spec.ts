import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeCanonicalJson } from './canonical-json.js';
import { nativeEd25519 } from './ed25519.js';
import { parseJson } from './json.js';
import { verifyJsonSignature } from './signed-json.js';
import {
  parseXMatrix,
  parseXMatrixHeaders,
  requestToSign,
  signRequest,
  signRequestWithBody,
  xMatrixHeader,
} from './x-matrix.js';

const parsed = { origin: 'a.test', keyId: 'ed25519:1', signature: 'abc' };

describe('a header in another form that the grammar allows', () => {
  it.each([
    'X-Matrix origin="a.test",key="ed25519:1",sig="abc"',
    'x-mATRIX   sig=abc , KEY=ed25519:1\t,\tOrigin = "a.test"',
    'X-Matrix ,,origin=a.test,, key=ed25519:1 ,sig="abc", ,',
    'X-Matrix origin="a.test",key="ed25519:1",sig="abc",signature="other",future="x,y=\\"z\\"",future=2',
    'X-Matrix origin="a\\.test",key="ed\\25519:1",sig="abc"',
  ])('%j is read', (header) => {
    expect(parseXMatrix(header)).toEqual(parsed);
  });

  it('takes an unquoted IPv6 origin and signature', () => {
    expect(parseXMatrix('X-Matrix origin=[::1]:8448,key=ed25519:1,sig=a/b+c,destination=b.test')).toEqual({
      origin: '[::1]:8448',
      keyId: 'ed25519:1',
      signature: 'a/b+c',
      destination: 'b.test',
    });
  });
});

describe('a malformed header', () => {
  it.each([
    'X-Matrix',
    'X-Matrix ',
    'X-Matrix\torigin="a.test",key="ed25519:1",sig="abc"',
    'X-Matrix origin="a.test",key="ed25519:1"',
    'X-Matrix origin="a.test",sig="abc"',
    'X-Matrix key="ed25519:1",sig="abc"',
    'X-Matrix origin="",key="ed25519:1",sig="abc"',
    'X-Matrix origin="a.test",key="ed25519:1",signature="abc"',
    'X-Matrix origin="a.test",key="ed25519:1",sig="abc",ORIGIN="a.test"',
    'X-Matrix origin="a.test",key="ed25519:1",sig="abc',
    'X-Matrix origin="a.test",key="ed25519:1",sig="abc\\"',
    'X-Matrix origin="a.test" key="ed25519:1",sig="abc"',
    'X-Matrix origin="a.test"x,key="ed25519:1",sig="abc"',
    'X-Matrix origin=a b,key="ed25519:1",sig="abc"',
    'X-Matrix origin,key="ed25519:1",sig="abc"',
    'X-Matrix ="a",origin="a.test",key="ed25519:1",sig="abc"',
    'X-Matrix origin="a\u0000",key="ed25519:1",sig="abc"',
    `X-Matrix origin="a.test",key="ed25519:1",sig="abc",pad="${'x'.repeat(8192)}"`,
  ])('%j is refused', (header) => {
    expect(parseXMatrix(header)).toMatchObject({ error: 'malformed' });
    expect(parseXMatrixHeaders(['Authorization', header])).toMatchObject({ error: 'malformed' });
  });

  it('is refused and not thrown, whatever it holds', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), (junk) => {
        expect(parseXMatrix(`X-Matrix origin=a,key=b,sig=c,${junk}`)).toBeTypeOf('object');
      }),
    );
  });
});

describe('a header by another scheme', () => {
  it.each(['', 'Bearer abc', 'X-Matrixx origin="a"', 'Basic X-Matrix'])('%j counts as missing', (header) => {
    expect(parseXMatrix(header)).toMatchObject({ error: 'missing' });
  });
});

describe('several headers', () => {
  const header = (origin: string, key: string, destination?: string) =>
    `X-Matrix origin="${origin}",key="${key}",sig="s-${key}"${destination === undefined ? '' : `,destination="${destination}"`}`;
  const raw = (...values: string[]) => ['Host', 'x', ...values.flatMap((value) => ['aUTHORIZATION', value])];

  it('are merged when they name one origin', () => {
    const headers = raw('Bearer abc', header('a.test', 'ed25519:1'), header('a.test', 'ed25519:2', 'b.test'));
    expect(parseXMatrixHeaders(headers)).toEqual({
      origin: 'a.test',
      destination: 'b.test',
      signatures: [
        { keyId: 'ed25519:1', signature: 's-ed25519:1' },
        { keyId: 'ed25519:2', signature: 's-ed25519:2' },
      ],
    });
  });

  it.each([
    ['two origins', raw(header('a.test', 'ed25519:1'), header('b.test', 'ed25519:1'))],
    ['two destinations', raw(header('a.test', 'k', 'b.test'), header('a.test', 'l', 'c.test'))],
    ['a malformed one among them', raw(header('a.test', 'ed25519:1'), 'X-Matrix origin="a.test"')],
    ['too many', raw(...Array.from({ length: 11 }, (_, index) => header('a.test', `ed25519:${index}`)))],
  ])('are malformed with %s', (_, headers) => {
    expect(parseXMatrixHeaders(headers)).toMatchObject({ error: 'malformed' });
  });

  it.each([[[]], [['Host', 'authorization']], [raw('Bearer abc')]])('are missing in %j', (headers) => {
    expect(parseXMatrixHeaders(headers)).toMatchObject({ error: 'missing' });
  });
});

describe('a header we send', () => {
  it('has the form that every recipient reads', () => {
    expect(xMatrixHeader({ ...parsed, destination: 'b.test' })).toBe(
      'X-Matrix origin="a.test",destination="b.test",key="ed25519:1",sig="abc"',
    );
  });

  it.each(['a"b', 'a\\b', 'a\r\nb', 'é'])('never holds %j', (origin) => {
    expect(() => xMatrixHeader({ ...parsed, origin, destination: 'b.test' })).toThrow(TypeError);
  });
});

describe('a request we sign', () => {
  const seed = new Uint8Array(32).fill(9);
  const request = {
    method: 'PUT',
    uri: '/_matrix/federation/v2/send_leave/%21a%3Ab/%24c?x=%2F',
    origin: 'a.test',
    destination: 'b.test',
    content: parseJson('{"depth":1.50,"signatures":{"x":{}},"unsigned":{}}'),
  };
  const credentials = parseXMatrix(signRequest(request, { keyId: 'ed25519:1', seed }));
  const verifies = (received: typeof request) =>
    'signature' in credentials &&
    verifyJsonSignature(requestToSign(received), credentials.signature, nativeEd25519.publicKeyOf(seed));

  it('is verified from what its header says', () => {
    expect(credentials).toMatchObject({ origin: 'a.test', destination: 'b.test', keyId: 'ed25519:1' });
    expect(verifies(request)).toBe(true);
  });

  it.each([
    ['method', { method: 'POST' }],
    ['target', { uri: decodeURIComponent(request.uri) }],
    ['origin', { origin: 'c.test' }],
    ['destination', { destination: 'c.test' }],
    ['number format', { content: parseJson('{"depth":1.5,"signatures":{"x":{}},"unsigned":{}}') }],
    ['signatures within the body', { content: parseJson('{"depth":1.50,"unsigned":{}}') }],
  ])('is not verified with another %s', (_, change) => {
    expect(verifies({ ...request, ...change })).toBe(false);
  });

  it('has the same signature where its body is a text already', () => {
    const { content, ...rest } = request;
    const key = { keyId: 'ed25519:1', seed };
    const body = encodeCanonicalJson(content);
    expect(signRequestWithBody({ ...rest, body }, key)).toBe(signRequest(request, key));
    expect(signRequestWithBody(rest, key)).toBe(signRequest(rest, key));
  });

  it('has content for an empty body, and none without a body', () => {
    expect(requestToSign({ ...request, content: {} })).toHaveProperty('content', {});
    expect(requestToSign({ ...request, content: undefined })).not.toHaveProperty('content');
  });
});
