import { encodeUnpaddedBase64 } from './base64.js';
import { canonicalObjectOf, encodeCanonicalJson, type CanonicalJson } from './canonical-json.js';
import type { Ed25519 } from './ed25519.js';
import { selectEd25519 } from './ed25519.js';
import type { JsonObject, JsonValue } from './json.js';
import type { JsonSignature, SigningKey } from './signed-json.js';

/**
 * What one X-Matrix header says, nothing of it checked yet: `destination` is missing with old senders, `keyId` may
 * be of an unknown algorithm. (requirements RA-01, RA-09)
 */
export interface XMatrix {
  readonly origin: string;
  readonly destination?: string;
  readonly keyId: string;
  readonly signature: string;
}

/** What all X-Matrix headers of a request say together: one origin, at least one signature. (requirement RA-12) */
export interface XMatrixCredentials {
  readonly origin: string;
  readonly destination?: string;
  readonly signatures: readonly JsonSignature[];
}

/**
 * Why there are no credentials: none by the X-Matrix scheme were given (`missing`), or they do not follow its grammar
 * (`malformed`). `why` is for people. (requirement RA-13)
 */
export interface XMatrixError {
  readonly error: 'missing' | 'malformed';
  readonly why: string;
}

/** The parts of a request that its signature covers. (requirements RA-02, RA-03, RA-05, RA-09) */
export interface RequestToSign {
  /** In capitals, as in the request line. */
  readonly method: string;
  /** The request target exactly as sent: path with its percent-encoding, and the query if there is one. */
  readonly uri: string;
  readonly origin: string;
  /** When checking a request: our own server name, whatever the header says. */
  readonly destination: string;
  /** The parsed body; left out only when the request has none, so an empty object counts. */
  readonly content?: JsonValue | undefined;
}

const maxHeaderLength = 8192;
/** Each costs a signature check before we know who is asking. */
const maxHeaders = 10;

/**
 * Reads the value of one `Authorization` header. Any order and case of names; spaces and tabs round commas and
 * equals signs; quoted strings with backslash pairs; unknown parameters are ignored. A known parameter given twice,
 * a missing or empty `origin`, `key` or `sig`, and more than 8192 characters are `malformed`; another scheme is
 * `missing`. Unquoted values may hold what senders that forget the quotes put there: colons, brackets, slashes.
 * (Spec v1.19, server-server-api, Request Authentication; requirements RA-01, RA-06, RA-07, RA-11)
 */
export function parseXMatrix(header: string): XMatrix | XMatrixError {
  if (!isXMatrix(header)) {
    return { error: 'missing', why: 'not the X-Matrix scheme' };
  }
  if (header.length > maxHeaderLength) {
    return malformed(`longer than ${maxHeaderLength} characters`);
  }
  const parameters = parseParameters(header);
  if (!(parameters instanceof Map)) {
    return parameters;
  }
  const origin = parameters.get('origin');
  const destination = parameters.get('destination');
  const keyId = parameters.get('key');
  const signature = parameters.get('sig');
  if (!origin || !keyId || !signature) {
    return malformed('origin, key and sig are required');
  }
  return { origin, ...(destination === undefined ? {} : { destination }), keyId, signature };
}

/**
 * Reads every X-Matrix header from Node's `rawHeaders` (names and values by turns), because `headers` keeps only the
 * first. `missing` when there is none; `malformed` when one of them is, when they name more than one origin or
 * destination, or when there are more than ten. Other schemes are ignored. (requirements RA-12, RA-13)
 */
export function parseXMatrixHeaders(rawHeaders: readonly string[]): XMatrixCredentials | XMatrixError {
  const headers = authorizationValues(rawHeaders).filter(isXMatrix);
  if (headers.length > maxHeaders) {
    return malformed(`more than ${maxHeaders} X-Matrix headers`);
  }
  const parsed: XMatrix[] = [];
  for (const header of headers) {
    const result = parseXMatrix(header);
    if ('error' in result) {
      return result;
    }
    parsed.push(result);
  }
  const [first] = parsed;
  if (first === undefined) {
    return { error: 'missing', why: 'no X-Matrix header' };
  }
  if (parsed.some(({ origin }) => origin !== first.origin)) {
    return malformed('more than one origin');
  }
  const destinations = new Set(parsed.flatMap(({ destination }) => destination ?? []));
  if (destinations.size > 1) {
    return malformed('more than one destination');
  }
  const [destination] = destinations;
  return {
    origin: first.origin,
    ...(destination === undefined ? {} : { destination }),
    signatures: parsed.map(({ keyId, signature }) => ({ keyId, signature })),
  };
}

/**
 * The object whose signature authenticates a request; `content` is in it only when the request has a body. To check
 * one, give it to `verifyJsonSignature`. (requirements RA-02, RA-03, RA-18)
 */
export function requestToSign({ method, uri, origin, destination, content }: RequestToSign): JsonObject {
  return { method, uri, origin, destination, ...(content === undefined ? {} : { content }) };
}

/**
 * The header value a sender gives: one space, lower-case names, quoted values, no spaces round commas. Throws
 * `TypeError` for a value with a quote, a backslash or a character outside printable ASCII, which no server name,
 * key ID or signature has. (requirements RA-01, RA-08, RA-09)
 */
export function xMatrixHeader(parts: Required<XMatrix>): string {
  const parameters = [
    ['origin', parts.origin],
    ['destination', parts.destination],
    ['key', parts.keyId],
    ['sig', parts.signature],
  ] as const;
  return `X-Matrix ${parameters.map(([name, value]) => `${name}=${quoted(name, value)}`).join(',')}`;
}

/** Signs a request and gives the value of its `Authorization` header. (requirements RA-01, RA-02, RA-08, SG-05) */
export function signRequest(request: RequestToSign, key: SigningKey, ed: Ed25519 = selectEd25519()): string {
  const { content, ...rest } = request;
  const body = content === undefined ? {} : { body: encodeCanonicalJson(content) };
  return signRequestWithBody({ ...rest, ...body }, key, ed);
}

/** `signRequest` for a body that is canonical JSON as it stands: it is signed as those bytes, without being read. */
export function signRequestWithBody(
  { body, ...rest }: Omit<RequestToSign, 'content'> & { readonly body?: CanonicalJson },
  key: SigningKey,
  ed: Ed25519 = selectEd25519(),
): string {
  const { method, uri, origin, destination } = rest;
  const signed = canonicalObjectOf({
    method: encodeCanonicalJson(method),
    uri: encodeCanonicalJson(uri),
    origin: encodeCanonicalJson(origin),
    destination: encodeCanonicalJson(destination),
    ...(body === undefined ? {} : { content: body }),
  });
  const signature = encodeUnpaddedBase64(ed.sign(key.seed, Buffer.from(signed, 'utf8')));
  return xMatrixHeader({ origin, destination, keyId: key.keyId, signature });
}

/** The scheme, with whatever white space follows it. */
const scheme = /^[ \t]*x-matrix(?=[ \t]|$)/i;

const knownParameters = new Set(['origin', 'destination', 'key', 'sig']);

// Sticky patterns, each without two ways to match the same text, so that a header is read in one pass.
const spaces = / +/y;
const separators = /[ \t,]*/y;
const parameterName = /([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*/y;
const unquotedValue = /[!#$%&'*+.^_`|~0-9A-Za-z:/[\]-]+/y;
const quotedValue = /"((?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*)"/y;
const endOfParameter = /[ \t]*(?:,|$)/y;

function isXMatrix(header: string): boolean {
  return scheme.test(header);
}

function parseParameters(header: string): Map<string, string> | XMatrixError {
  const parameters = new Map<string, string>();
  let at = scheme.exec(header)?.[0].length ?? 0;

  function take(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = at;
    const match = pattern.exec(header) ?? undefined;
    at += match?.[0].length ?? 0;
    return match;
  }

  // RFC 9110, section 11.4: the scheme ends with spaces, tabs belong to the list that follows.
  if (take(spaces) === undefined) {
    return malformed('no space after the scheme');
  }
  for (;;) {
    // RFC 9110, section 5.6.1: a recipient ignores empty elements of a list.
    take(separators);
    if (at === header.length) {
      return parameters;
    }
    const name = take(parameterName)?.[1]?.toLowerCase();
    if (name === undefined) {
      return malformed(`no parameter at offset ${at}`);
    }
    const value = take(quotedValue)?.[1]?.replace(/\\(.)/g, '$1') ?? take(unquotedValue)?.[0];
    if (value === undefined || take(endOfParameter) === undefined) {
      return malformed(`bad value at offset ${at}`);
    }
    if (knownParameters.has(name)) {
      if (parameters.has(name)) {
        return malformed(`${name} given twice`);
      }
      parameters.set(name, value);
    }
  }
}

function authorizationValues(rawHeaders: readonly string[]): string[] {
  return rawHeaders.filter(
    (_, index) => index % 2 === 1 && rawHeaders[index - 1]?.toLowerCase() === 'authorization',
  );
}

const quotable = /^[\x20\x21\x23-\x5b\x5d-\x7e]*$/;

function quoted(name: string, value: string): string {
  if (!quotable.test(value)) {
    throw new TypeError(`${name} cannot stand in an X-Matrix header`);
  }
  return `"${value}"`;
}

function malformed(why: string): XMatrixError {
  return { error: 'malformed', why };
}
