--- The machine, as workers and commands see it: host.core (proxy.c), and for commands what cli.machine makes of system calls.
local M = require "host.core"
if M.adopt then       -- workers do not have it
  setmetatable(M, { __index = function(_, name) return require("cli.machine")[name] end })
end

--- random_token(prefix) -> token, hash: the prefix and 256 random bits in base64url; the token's SHA-256 in hex.
function M.random_token(prefix)
  local token = prefix .. require("secret.core").base64url(M.random(32))
  return token, M.sha256_hex(token)
end

--- command({ program, argument…, timeout=ms [, whole=bool, multiline=bool] }, deadline): host.run in proxy.c. Yields.
function M.command(spec, deadline)
  for _, text in ipairs(spec) do
    if type(text) ~= "string" or text:find("\0", 1, true) then error("an argument is a text without a NUL") end
  end
  return M.run(table.concat(spec, "\0") .. "\0", deadline, spec.timeout, spec.whole, spec.multiline)
end

return M
