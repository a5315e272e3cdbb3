// Encrypts tokens for the database, in the form that the worker decrypts: `enc:v1:` + base64(12-byte nonce,
// AES-256-GCM ciphertext, tag), with the user's id as associated data. Without a key tokens are stored plain.

const NONCE_BYTES = 12;

export async function seal(
  key: Uint8Array | undefined,
  userId: string,
  token: string,
  nonce: Uint8Array = crypto.getRandomValues(new Uint8Array(NONCE_BYTES)),
): Promise<string> {
  if (key === undefined) return token;
  const encode = (text: string) => new TextEncoder().encode(text);
  const copy = (array: Uint8Array) => new Uint8Array(array);
  const imported = await crypto.subtle.importKey("raw", copy(key), "AES-GCM", false, ["encrypt"]);
  const parameters = { name: "AES-GCM", iv: copy(nonce), additionalData: encode(userId) };
  const sealed = new Uint8Array(
    await crypto.subtle.encrypt(parameters, imported, encode(token)),
  );
  return `enc:v1:${btoa(String.fromCharCode(...nonce, ...sealed))}`;
}
