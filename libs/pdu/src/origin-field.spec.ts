import { describe, expect, it } from 'vitest';
import { everyVersion, leaveIn } from './leave.fixture.js';
import { isPduFault, parsePdu } from './format.js';
import { requiredSigners } from './signatures.js';

describe.each(everyVersion)('the origin field in room version $id', (version) => {
  it.each([undefined, 'leaver.test', 'other.test', 'no server name', 5, null])(
    'may be %j: nobody is trusted for it, and nobody else has to sign (EV-10, SG-08)',
    (origin) => {
      const pdu = parsePdu(leaveIn(version, origin === undefined ? {} : { origin }), version);
      if (isPduFault(pdu)) throw new Error(`${pdu.rule}: ${pdu.detail}`);
      expect(requiredSigners(pdu)).toEqual([{ server: 'leaver.test', why: 'sender' }]);
    },
  );
});
