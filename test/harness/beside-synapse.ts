import { startLeaveServer, type LeaveServer } from './leave-server.js';
import { findSynapse, startSynapse, type SynapseServer } from './synapse-server.js';
import { createTestCertificateAuthority, type TestCertificateAuthority } from './test-certificate.js';

/** Whether a Synapse is installed; says so out loud where it is not. */
export function hasSynapse(): boolean {
  if (findSynapse() !== undefined) return true;
  console.warn('Synapse is not installed (scripts/services/install-synapse.sh): these tests do not run');
  return false;
}

/** Our server beside a real Synapse, TLS verified both ways by a test CA. */
export interface BesideSynapse {
  readonly authority: TestCertificateAuthority;
  readonly synapse: SynapseServer;
  readonly ours: LeaveServer;
  stop(): Promise<void>;
}

/** Without `trustsSynapse` our server does not have the CA among its roots: whatever it sends is lost on the way. */
export async function startBesideSynapse({ trustsSynapse = true } = {}): Promise<BesideSynapse> {
  const authority = await createTestCertificateAuthority();
  const ourHost = '127.0.0.1';
  const certificate = await authority.issue([ourHost]);
  const synapse = await startSynapse({ certificateAuthority: authority });
  try {
    const ours = await startLeaveServer({
      host: ourHost,
      environment: {
        EXEUNT_FEDERATION_TLS: 'files',
        EXEUNT_TLS_CERT_FILE: certificate.certificatePath,
        EXEUNT_TLS_KEY_FILE: certificate.privateKeyPath,
        EXEUNT_FEDERATION_VERIFY_TLS: 'true',
        ...(trustsSynapse ? { EXEUNT_FEDERATION_CA_FILE: authority.certificatePath } : {}),
      },
    });
    return {
      authority,
      synapse,
      ours,
      async stop() {
        await Promise.all([synapse.stop(), ours.stop()]);
        await authority.remove();
      },
    };
  } catch (cause) {
    await synapse.stop();
    await authority.remove();
    throw cause;
  }
}
