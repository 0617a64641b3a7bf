import { describe, expect, it } from 'vitest';
import { httpError, lacksEndpoint, mayInviteByV1, remoteErrorOf } from './remote-error.js';

const nowTs = Date.UTC(2023, 10, 14, 22, 13, 20);

describe('a status other than 200', () => {
  it('is told in the words of the peer', () => {
    const error = httpError(403, { errcode: 'M_FORBIDDEN', error: 'not in the room' }, undefined, nowTs);

    expect(error).toEqual({
      ok: false,
      kind: 'http',
      status: 403,
      errcode: 'M_FORBIDDEN',
      error: 'not in the room',
      retry: 'no',
    });
  });

  it.each([
    [403, { errcode: 'M_FORBIDDEN' }, 'no'],
    [404, { errcode: 'M_NOT_FOUND' }, 'no'],
    [404, undefined, 'later'],
    [401, { errcode: 'M_UNAUTHORIZED' }, 'later'],
    [429, { errcode: 'M_LIMIT_EXCEEDED' }, 'later'],
    [500, { errcode: 'M_UNKNOWN' }, 'later'],
    [502, undefined, 'later'],
    [302, undefined, 'later'],
    [403, ['not', 'an', 'object'], 'later'],
    [403, { errcode: 7 }, 'later'],
  ] as const)('%i with %j: try again %s', (status, body, retry) => {
    expect(httpError(status, body, undefined, nowTs).retry).toBe(retry);
  });

  it.each([
    ['120', undefined, 120_000],
    ['Tue, 14 Nov 2023 22:14:20 GMT', undefined, 60_000],
    ['Tue, 14 Nov 2023 22:00:00 GMT', undefined, 0],
    ['999999999', undefined, 86_400_000],
    ['soon', undefined, undefined],
    [undefined, { retry_after_ms: 2500 }, 2500],
    [undefined, { retry_after_ms: '2500' }, undefined],
    [undefined, { retry_after_ms: -5 }, 0],
  ])('with Retry-After %j and body %j asks for a wait of %j ms', (retryAfter, body, waitMs) => {
    expect(httpError(429, body, retryAfter, nowTs).retryAfterMs).toBe(waitMs);
  });

  it('keeps a long text short', () => {
    expect(httpError(500, { error: 'x'.repeat(100_000) }, undefined, nowTs).error).toHaveLength(500);
  });
});

describe('whether the peer lacks the endpoint', () => {
  it.each([
    [404, { errcode: 'M_UNRECOGNIZED' }, true],
    [405, { errcode: 'M_UNRECOGNIZED' }, true],
    [400, { errcode: 'M_UNRECOGNIZED' }, true],
    [404, undefined, true],
    [404, { errcode: 'M_NOT_FOUND' }, false],
    [400, { errcode: 'M_BAD_JSON' }, false],
    [403, { errcode: 'M_UNRECOGNIZED' }, false],
    [500, undefined, false],
  ])('%i with %j: %j', (status, body, lacks) => {
    expect(lacksEndpoint(httpError(status, body, undefined, nowTs))).toBe(lacks);
  });
});

describe('whether an invite may go by v1', () => {
  it.each([
    [400, { errcode: 'M_BAD_JSON' }, true],
    [404, { errcode: 'M_NOT_FOUND' }, true],
    [403, { errcode: 'M_FORBIDDEN' }, false],
    [500, undefined, false],
  ])('%i with %j: %j', (status, body, may) => {
    expect(mayInviteByV1(httpError(status, body, undefined, nowTs))).toBe(may);
  });
});

describe('what the HTTP client throws', () => {
  it.each([
    ['ECONNREFUSED', 'unreachable'],
    ['ENOTFOUND', 'unreachable'],
    ['UND_ERR_SOCKET', 'unreachable'],
    ['HPE_INVALID_CONSTANT', 'unreachable'],
    ['UND_ERR_CONNECT_TIMEOUT', 'timeout'],
    ['ETIMEDOUT', 'timeout'],
    ['UND_ERR_HEADERS_OVERFLOW', 'too-large'],
    ['DEPTH_ZERO_SELF_SIGNED_CERT', 'tls'],
    ['CERT_HAS_EXPIRED', 'tls'],
    ['ERR_TLS_CERT_ALTNAME_INVALID', 'tls'],
    ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'tls'],
    ['ERR_SSL_WRONG_VERSION_NUMBER', 'tls'],
    ['EPROTO', 'tls'],
  ])('%s is %s', (code, kind) => {
    expect(remoteErrorOf(Object.assign(new Error('x'), { code }))).toMatchObject({ ok: false, kind });
  });

  it('may be no error at all', () => expect(remoteErrorOf('gone').kind).toBe('unreachable'));
});
