/** The platform API, as the commands need it. */
export class OperatorApi {
  readonly #url: string;
  readonly #token: string;

  constructor(url: string, token: string) {
    this.#url = url;
    this.#token = token;
  }

  /** The JSON answer. Throws an `Error` in the server's words for anything but a good status. */
  async call<Answer>(method: 'GET' | 'POST', path: string, body?: object): Promise<Answer> {
    let response: Response;
    try {
      response = await fetch(`${this.#url}${path}`, {
        method,
        headers: { Authorization: `Bearer ${this.#token}` },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    } catch (cause) {
      throw new Error(`nothing answers at ${this.#url}: is the server running?`, { cause });
    }
    const answer = (await response.json()) as Answer & { readonly error?: string };
    if (!response.ok) throw new Error(`${response.status} ${answer.error ?? response.statusText}`);
    return answer;
  }
}
