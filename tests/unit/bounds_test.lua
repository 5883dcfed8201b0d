--- lua/web/bounds.lua: which change of a credential leads its secret elsewhere, so that the secret is asked for again.
local bounds = require "web.bounds"

local pol = { by_name = { token_url = { type = "url" }, scopes = { type = "list" }, prefix = {} } }
local record = { fields = { token_url = "https://id.test/t" } }

local function leads(...) return bounds.leads({ "credential", "set", "app", ... }, pol, record) end

return {
  ["hosts, ports, addresses and trust lead elsewhere, and so does taking away what is set"] = function()
    for _, text in ipairs { "--host=b.test", "--host=", "--port=8443", "--plain-http", "--seal-host=b.test", "--address=10.0.0.0/8", "--preset=github",
      "ca=x", "tls=legacy", "client_cert=x", "token_url=https://evil.test/t", "token_url=",
      "--clear=ca", "--clear=tls", "--clear=client_cert", "--clear=preset", "--clear=address", "--clear=seal-host", "--clear=plain-http", "--clear=token_url" } do
      assert(leads(text), text)
      assert(leads("--method=GET", text, "prefix=x"), text)
    end
  end,
  ["the rest does not, nor what stays as it is"] = function()
    for _, text in ipairs { "--method=GET", "--path=/host=1", "--env=HOST", "scopes=a ca=x", "prefix=--host=x", "headers.ca=x", "token_url=https://id.test/t", "--clear=method",
      "--clear=headers.ca", "--clear=scopes", "--clear=env" } do
      assert(not leads(text), text)
    end
  end,
}
