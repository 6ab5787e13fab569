"""PRnet: control profile and fingerprint to a Gaussian over treated profiles, independent between genes.

Source: Qi et al. 2024, Nature Communications, doi:10.1038/s41467-024-53457-1; 551,204 parameters at 978 genes.

Note:
    PRnet applies normalize_total + log1p to values that are already log2; here it is trained on raw log2. Treatment
    time is not an input.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm_ray.keys import Purpose
from ldm_ray.models.batch_norm import GlobalBatchNorm
from ldm_ray.models.blocks import KeyedDropout

NOISE_DIM = 10
ADAPTOR_DIM, LATENT_DIM, HIDDEN_DIM = 64, 64, 128
INIT_SD = 0.02


class Prnet(nn.Module):
    """The published network.

    Args:
        n_genes: Length of a profile.
        drug_dim: Width of the drug vector.
    """

    def __init__(self, n_genes: int, drug_dim: int) -> None:
        super().__init__()
        self.n_genes, self.drug_dim = n_genes, drug_dim
        self.adaptor = nn.Sequential(nn.Linear(drug_dim, HIDDEN_DIM, bias=False), nn.Linear(HIDDEN_DIM, ADAPTOR_DIM))
        self.encoder = nn.Sequential(
            nn.Linear(n_genes + ADAPTOR_DIM, HIDDEN_DIM, bias=False), nn.Linear(HIDDEN_DIM, LATENT_DIM)
        )
        self.decoder_in = nn.Linear(LATENT_DIM + ADAPTOR_DIM + NOISE_DIM, HIDDEN_DIM, bias=False)
        self.norm = GlobalBatchNorm(HIDDEN_DIM)
        self.dropout = KeyedDropout(0.05, salt=Purpose.DROPOUT_PRNET)
        self.decoder_out = nn.Linear(HIDDEN_DIM, 2 * n_genes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, INIT_SD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.norm.weight, 1.0, INIT_SD)

    def forward(
        self, x_basal: Tensor, drug: Tensor, noise: Tensor, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance of the treated profile, each (batch, n_genes), log2.

        Args:
            x_basal: Matched control, log2, (batch, n_genes).
            drug: Output of `scaled_drug`, (batch, drug_dim).
            noise: N(0, I), (batch, NOISE_DIM).
            keys: Keys of dropout in training, (batch,), int64.
        """
        adapted = self.adaptor(drug)
        z = self.encoder(torch.cat([x_basal, adapted], dim=1))
        h = self.norm(self.decoder_in(torch.cat([z, adapted, noise], dim=1)))
        h = self.dropout(functional.leaky_relu(h, 0.3), keys)
        mean, variance = self.decoder_out(h).chunk(2, dim=1)
        return functional.relu(mean), functional.softplus(variance)


def scaled_drug(fingerprint: Tensor, dose_um: Tensor) -> Tensor:
    """Fingerprint bits times log10(dose_um + 1), (batch, drug_dim)."""
    return fingerprint * torch.log10(dose_um + 1.0)[:, None]
