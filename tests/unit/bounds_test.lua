--- lua/web/bounds.lua: which change of a credential leads its secret elsewhere, so that the secret is asked for again.
local bounds = require "web.bounds"

local pol = { name = "x", by_name = { token_url = { type = "url" }, scopes = { type = "list" }, prefix = {}, header = { header = true }, name = {} } }
local record = { fields = { token_url = "https://id.test/t" } }

local function leads(...) return bounds.leads({ "credential", "set", "app", ... }, pol, record) end

return {
  ["hosts, ports, addresses and trust lead elsewhere, and so does taking away what is set"] = function()
    for _, text in ipairs { "--host=b.test", "--host=", "--port=8443", "--plain-http", "--seal-host=b.test", "--address=10.0.0.0/8", "--preset=github",
      "ca=x", "tls=legacy", "client_cert=x", "token_url=https://evil.test/t", "token_url=",
      "--substitute=token:json=/note", "mint=allow", "scrub=off", "header=x-note", "--clear=mint", "--clear=scrub", "--clear=header", "--clear=substitute",
      "--clear=ca", "--clear=tls", "--clear=client_cert", "--clear=preset", "--clear=address", "--clear=seal-host", "--clear=plain-http", "--clear=token_url" } do
      assert(leads(text), text)
      assert(leads("--method=GET", text, "prefix=x"), text)
    end
  end,
  ["a parameter of the body is where its secret stands"] = function()
    local body = { name = "body_parameter", by_name = { name = {}, ["in"] = {} } }
    for _, text in ipairs { "name=note", "in=json", "--clear=in" } do assert(bounds.leads({ "credential", "set", "app", text }, body, { fields = { name = "key" } }), text) end
    assert(not bounds.leads({ "credential", "set", "app", "name=key" }, body, { fields = { name = "key" } }))
  end,
  ["the rest does not, nor what stays as it is"] = function()
    for _, text in ipairs { "--method=GET", "--path=/host=1", "--env=HOST", "scopes=a ca=x", "prefix=--host=x", "name=x", "headers.ca=x", "token_url=https://id.test/t", "--clear=method",
      "--clear=headers.ca", "--clear=scopes", "--clear=env" } do
      assert(not leads(text), text)
    end
  end,
}
